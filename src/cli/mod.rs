//! The commands.

use std::sync::Mutex;

/// Why something that was printed did not reach standard output.
static UNPRINTED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Prints a line. Unlike the standard macro it does not panic where that fails: the work goes on, and [`run`] says so.
macro_rules! println {
    ($($text:tt)*) => {{
        use std::io::Write;
        if let Err(error) = writeln!(std::io::stdout(), $($text)*) {
            crate::cli::note_unprinted(error);
        }
    }};
}

/// Prints a line for people. It may be lost.
macro_rules! eprintln {
    ($($text:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stderr(), $($text)*).ok();
    }};
}

mod bench;
mod client;
mod cloud;
mod compare;
mod database;
mod demo;
mod format;
mod image;
mod serve;
mod storage;
mod table;
mod transfer;
mod vault;

use crate::app::{Role, logging, memory};
use crate::config::{Config, DataDir, Variables, without_passwords};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::PoisonError;
use tracing_appender::non_blocking::WorkerGuard;

/// Volume backups for OpenStack clouds: Cinder's backup API over a deduplicating, encrypting engine.
#[derive(Debug, Parser)]
#[command(name = "embervault", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service: API and workers in one process.
    ///
    /// Without any configuration everything lives in ./embervault-data: database, keys, volumes and
    /// backups. The first start makes it and writes clouds.yaml for the openstack client there.
    Serve {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Address and port to listen on [default: 127.0.0.1:8776]
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Run only the API; jobs wait for workers.
    ///
    /// Any number of API and worker processes can share one database and one storage. On several machines
    /// they need PostgreSQL, the same master key, and a directory of volumes that all of them can reach.
    Api {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Address and port to listen on [default: 127.0.0.1:8776]
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Run only a worker: it takes jobs from the database.
    ///
    /// On SIGTERM it takes no more jobs and waits up to jobs.drain for the running ones. Jobs that have not
    /// ended by then go back to the queue, and another worker resumes them.
    Worker {
        #[command(flatten)]
        settings: SettingsArguments,
    },
    /// Prove on real data that restores work: full, incremental, restore, compare every byte.
    ///
    /// Starts the service on a free port in a temporary directory, uses its HTTP API, and prints a table.
    /// Exit status 0 if every byte was right.
    Demo {
        /// Size of the generated volume in GiB.
        #[arg(long, value_name = "GiB", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
        size: u32,
        /// Raw image to use instead of generated data.
        #[arg(long, value_name = "FILE")]
        input: Option<PathBuf>,
    },
    /// Measure backups, incrementals and restores on this machine.
    ///
    /// Uses generated data, the same on every machine, or a raw image. EMBERVAULT_ENGINE__ variables set
    /// compression, chunk size, memory and threads.
    Bench {
        #[command(flatten)]
        bench: bench::BenchArguments,
    },
    /// One step of a benchmark.
    #[command(hide = true)]
    BenchStep {
        #[command(flatten)]
        step: bench::StepArguments,
    },
    /// Copy data into and out of standalone volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Maintain the stored backups.
    #[command(subcommand)]
    Vault(VaultCommand),
    /// Manage the master key.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Look after the database.
    #[command(subcommand)]
    Db(DbCommand),
    /// Check the backup storages.
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Check the cloud whose volumes are backed up.
    #[command(subcommand)]
    Cloud(CloudCommand),
    /// Show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// Write a raw image to a volume.
    ///
    /// The volume must be available. If the image is shorter than the volume, the rest becomes zeros. Images that are not raw
    /// (qcow2, VMDK, VHDX, VHD) or compressed are refused, with the command that makes a raw image.
    Import {
        #[command(flatten)]
        transfer: TransferArguments,
        /// Write the file as it is, whatever its format.
        #[arg(long)]
        as_raw: bool,
    },
    /// Read a volume into a raw image.
    Export {
        #[command(flatten)]
        transfer: TransferArguments,
        /// Overwrite a file that has content, or a block device.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
enum VaultCommand {
    /// Reclaim the space of deleted backups.
    ///
    /// May run beside the service. One run condemns the packs that no backup needs; the next run removes
    /// them, unless a backup needs them again.
    Gc {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Only show what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Check that stored backups are complete and undamaged.
    ///
    /// Every run reads each backup's root, checks that each pack is there with its length, and reads its
    /// trailer. Later backups do not use packs that were found damaged. Exit status 1 if there is damage.
    Verify {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Also read every byte. An interrupted full verification resumes.
        #[arg(long, conflicts_with = "sample")]
        full: bool,
        /// Also read this much, such as `10 GiB`: first the packs that were read the longest time ago.
        #[arg(long, value_name = "SIZE")]
        sample: Option<bytesize::ByteSize>,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Repair damaged packs from data that other packs and volumes still hold.
    ///
    /// Repairs the packs that a verification found damaged. Exit status 1 if data is lost.
    Repair {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Add all backups that a storage holds and the database does not know.
    ///
    /// Use it with an empty database after the database was lost, or after an old copy of it was restored.
    /// Needs the master key. Can be repeated.
    Rebuild {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Name of the storage, as in `[storage.NAME]`. `local` if none is configured.
        #[arg(long, value_name = "NAME")]
        storage: String,
    },
    /// Show the size of each backup: its data, what it added, what its deletion would free.
    Usage {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Destroy the keys of a project: its backups can never be read again.
    ///
    /// On SQLite, the whole database is then written anew, so that no old row is left in it. Until that is done, a service
    /// that is running cannot write: seconds, or minutes with a large database or a slow disk.
    Shred {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Id of the project.
        project: String,
        /// Confirm; this cannot be undone.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Change the master key: wrap the keys of all vaults with a new one.
    ///
    /// Stop all processes first. Afterwards copy the new key to the other machines. If it is interrupted,
    /// run it again: it resumes.
    Rotate {
        #[command(flatten)]
        settings: SettingsArguments,
    },
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Show the versions of the database, of this program, and of the processes that use the database.
    ///
    /// Changes nothing. Exit status 1 if the database is newer than this program.
    Status {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Copy the SQLite database to a file, while the service runs or not.
    ///
    /// The copy is the database as it was at one moment, readable by its owner alone. It holds wrapped keys and password
    /// hashes. For PostgreSQL use pg_dump.
    Backup {
        #[command(flatten)]
        settings: SettingsArguments,
        /// The new file.
        file: PathBuf,
        /// Replace a file that exists.
        #[arg(long)]
        force: bool,
    },
    /// Bring the tables to the version of this program, as every start of the service does.
    ///
    /// Refuses while processes of an earlier version use the database. Copy the database first: there is no way back.
    Migrate {
        #[command(flatten)]
        settings: SettingsArguments,
    },
}

#[derive(Debug, Subcommand)]
enum StorageCommand {
    /// Test a storage before it is used: write, read, range, list, conditional create, delete, latency.
    ///
    /// Stores objects of 256 KiB and 32 MiB below `check/` and removes them. Exit status 0 if everything
    /// that backups need works.
    Check {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Name of the storage, as in `[storage.NAME]`. `local` if none is configured.
        name: String,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum CloudCommand {
    /// Go through all that backups and restores need of Keystone, Cinder and Ceph.
    ///
    /// Says for each what to do if it is not there. Exit status 0 if everything that is configured works.
    Check {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Also rehearse a backup of this volume: take a snapshot, read it, remove it.
        #[arg(long, value_name = "ID")]
        volume: Option<String>,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the settings in force as TOML, with secrets hidden.
    Print {
        #[command(flatten)]
        settings: SettingsArguments,
    },
}

#[derive(Debug, Args)]
struct TransferArguments {
    #[command(flatten)]
    settings: SettingsArguments,
    /// Id of the volume, or its name if no other volume has the same.
    #[arg(long, value_name = "ID")]
    volume: String,
    /// Raw image; `-` for standard input or output.
    file: PathBuf,
}

#[derive(Debug, Args)]
struct SettingsArguments {
    /// Configuration file (TOML). Variables EMBERVAULT_SECTION__KEY override it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where database, keys, volumes and the default storage live [default: ./embervault-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl SettingsArguments {
    fn load(&self) -> anyhow::Result<Config> {
        let variables = Variables::of_process();
        let config = variables.and_then(|variables| {
            Config::load(self.config.as_deref(), variables.settings.into_iter())
        });
        let mut config = config.context("the configuration cannot be used")?;
        if let Some(dir) = &self.data_dir {
            config.data_dir = DataDir(dir.clone());
        }
        Ok(config)
    }

    /// For a command beside the service: its warnings and errors are logged too.
    fn load_for_command(&self, logs: &mut Option<WorkerGuard>) -> anyhow::Result<Config> {
        let config = self.load()?;
        *logs = Some(logging::start_for_command(&config.log).map_err(anyhow::Error::msg)?);
        Ok(config)
    }
}

/// Exit status of a command that its user has interrupted.
const INTERRUPTED: u8 = 130;

/// Runs the program.
pub fn run() -> ExitCode {
    memory::settle();
    // Only our own user may read keys, database, volumes and objects.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Until logs are on, and in commands.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!(
            "embervault: a thread panicked: {}",
            without_passwords(&panic.to_string())
        );
    }));
    match dispatch(Arguments::parse().command).and_then(|()| printed()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embervault: {}", without_passwords(&format!("{error:#}")));
            if transfer::was_interrupted() {
                return ExitCode::from(INTERRUPTED);
            }
            ExitCode::FAILURE
        }
    }
}

fn note_unprinted(error: std::io::Error) {
    *UNPRINTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
}

/// An error if something that was printed is lost. A reader that has seen enough is none.
fn printed() -> anyhow::Result<()> {
    let unprinted = UNPRINTED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match unprinted {
        Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("the command has done its work, but its output could not be written")
        }
        _ => Ok(()),
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    let mut logs = None;
    match command {
        Command::Serve { settings, listen } => {
            let mut config = settings.load()?;
            if let Some(address) = listen {
                config.api.listen = address;
            }
            serve::run(config, Role::Serve)
        }
        Command::Api { settings, listen } => {
            let mut config = settings.load()?;
            if let Some(address) = listen {
                config.api.listen = address;
            }
            serve::run(config, Role::Api)
        }
        Command::Worker { settings } => serve::run(settings.load()?, Role::Worker),
        Command::Demo { size, input } => demo::run(size, input.as_deref()),
        Command::Bench { bench } => bench::run(&bench),
        Command::BenchStep { step } => bench::step(&step),
        Command::Volume(VolumeCommand::Import { transfer, as_raw }) => {
            let config = transfer.settings.load_for_command(&mut logs)?;
            transfer::import(&config, &transfer.volume, &transfer.file, as_raw)
        }
        Command::Volume(VolumeCommand::Export { transfer, force }) => {
            let config = transfer.settings.load_for_command(&mut logs)?;
            transfer::export(&config, &transfer.volume, &transfer.file, force)
        }
        Command::Vault(VaultCommand::Gc {
            settings,
            dry_run,
            json,
        }) => vault::collect(&settings.load_for_command(&mut logs)?, dry_run, json),
        Command::Vault(VaultCommand::Verify {
            settings,
            full,
            sample,
            json,
        }) => {
            let sample = sample.map(|size| size.as_u64());
            vault::verify(&settings.load_for_command(&mut logs)?, full, sample, json)
        }
        Command::Vault(VaultCommand::Repair { settings, json }) => {
            vault::repair(&settings.load_for_command(&mut logs)?, json)
        }
        Command::Vault(VaultCommand::Rebuild { settings, storage }) => {
            vault::rebuild(&settings.load_for_command(&mut logs)?, &storage)
        }
        Command::Vault(VaultCommand::Usage { settings, json }) => {
            vault::usage(&settings.load_for_command(&mut logs)?, json)
        }
        Command::Vault(VaultCommand::Shred {
            settings,
            project,
            yes,
        }) => vault::shred(&settings.load_for_command(&mut logs)?, &project, yes),
        Command::Key(KeyCommand::Rotate { settings }) => {
            vault::rotate(&settings.load_for_command(&mut logs)?)
        }
        Command::Db(DbCommand::Status { settings, json }) => {
            database::status(&settings.load_for_command(&mut logs)?, json)
        }
        Command::Db(DbCommand::Backup {
            settings,
            file,
            force,
        }) => database::backup(&settings.load_for_command(&mut logs)?, &file, force),
        Command::Db(DbCommand::Migrate { settings }) => {
            database::migrate(&settings.load_for_command(&mut logs)?)
        }
        Command::Storage(StorageCommand::Check {
            settings,
            name,
            json,
        }) => storage::check(&settings.load_for_command(&mut logs)?, &name, json),
        Command::Cloud(CloudCommand::Check {
            settings,
            volume,
            json,
        }) => cloud::check(
            &settings.load_for_command(&mut logs)?,
            volume.as_deref(),
            json,
        ),
        Command::Config(ConfigCommand::Print { settings }) => {
            let config = settings.load_for_command(&mut logs)?;
            let text = toml::to_string_pretty(&config)?;
            println!("{}", without_passwords(text.trim_end()));
            Ok(())
        }
    }
}
