//! Checks a cloud's volume backup service from outside, over HTTP alone, and prints one verdict.

mod attachment;
mod block_storage;
mod catalog;
mod checks;
mod claim;
mod cleanup;
mod cloud;
mod clouds;
mod credentials;
mod exchange;
mod http;
mod identity;
mod image;
mod interrupt;
mod log;
mod microversion;
mod options;
mod pages;
mod resource;
mod run;
mod url;
mod verdict;
mod wait;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use clap::error::ErrorKind;

use crate::block_storage::BlockStorage;
use crate::claim::Claim;
use crate::clouds::Surroundings;
use crate::credentials::Login;
use crate::http::Http;
use crate::log::Level;
use crate::options::Options;
use crate::run::Run;
use crate::verdict::{Report, Verdict, abort};

const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => return refuse(&error),
    };
    log::show_debug(options.debug);
    let report = wanted_report(options.legacy_report, options.cleanup_only);
    // A panic is a fault of this program, so it says nothing about the cloud.
    let verdict = catch_unwind(AssertUnwindSafe(|| judge(&options, report)));
    let verdict = verdict.unwrap_or(Verdict::Abort);
    verdict.announce(report);
    ExitCode::from(verdict.exit_status())
}

/// Help and version go to standard output and are no failure; bad usage still gets its verdict.
fn refuse(error: &clap::Error) -> ExitCode {
    // Printing can only fail where nobody reads.
    let _ = error.print();
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return ExitCode::SUCCESS;
    }
    let given = |flag: &str| std::env::args_os().any(|argument| argument == flag);
    Verdict::Abort.announce(wanted_report(
        given("--legacy-report"),
        given("--cleanup-only"),
    ));
    ExitCode::from(BAD_USAGE)
}

fn wanted_report(legacy: bool, cleanup_only: bool) -> Report {
    match (cleanup_only, legacy) {
        (true, _) => Report::None,
        (false, true) => Report::Legacy,
        (false, false) => Report::Current,
    }
}

fn judge(options: &Options, report: Report) -> Verdict {
    let storage = interrupt::listen(report).and_then(|()| connect(options));
    match storage {
        Ok(storage) => conduct(&storage, options),
        Err(error) => reported(Err(error)),
    }
}

/// The steps of a run. What was created is deleted whatever the test came to.
fn conduct(storage: &BlockStorage, options: &Options) -> Verdict {
    let everything = Claim::of_prefix(&options.prefix);
    let cleaned = reported(cleanup::clean(storage, &everything).context("initial cleanup"));
    if cleaned != Verdict::Pass {
        return cleaned;
    }
    if options.cleanup_only {
        log::info(format_args!(
            "nothing is left whose name starts with {}",
            options.prefix
        ));
        return cleaned;
    }
    let own = Claim::of_run(&options.prefix);
    let run = Run {
        storage,
        claim: &own,
    };
    let tested = reported(test(&run, options));
    interrupt::forgive();
    let tidied = reported(cleanup::clean(storage, &own).context("final cleanup"));
    if tested == Verdict::Pass {
        tidied
    } else {
        tested
    }
}

/// Logs a failure where it happened, before anything else is done about it.
fn reported(result: Result<()>) -> Verdict {
    let Err(error) = result else {
        return Verdict::Pass;
    };
    log::failure(Level::Critical, &error);
    if interrupt::happened() {
        Verdict::Abort
    } else {
        Verdict::of(&error)
    }
}

/// Up to the login nothing is learned about backups, so failures there abort.
fn connect(options: &Options) -> Result<BlockStorage> {
    let name = options.os_cloud.as_deref().filter(|name| !name.is_empty());
    let name = name.context("no cloud is named; use --os-cloud or OS_CLOUD");
    let name = name.map_err(abort("bad usage"))?;
    let cloud = Surroundings::own().and_then(|surroundings| clouds::load(name, &surroundings));
    let cloud = cloud.map_err(abort("bad clouds.yaml"))?;
    let password = options
        .ask
        .then(|| rpassword::prompt_password("Password: "));
    let password = password
        .transpose()
        .context("no terminal to ask for the password at");
    let password = password.map_err(abort("bad usage"))?;
    let login = Login::new(&cloud, password).with_context(|| format!("cloud {}", cloud.name));
    let login = login.map_err(abort("bad clouds.yaml"))?;
    let http = Http::new(&cloud.trust(), options.timeout).map_err(abort("bad clouds.yaml"))?;
    let session = identity::log_in(&http, &login).map_err(abort("cannot log in"))?;
    session
        .refuse_administrators()
        .map_err(abort("wrong user"))?;
    BlockStorage::connect(http, &session, &cloud, options.timeout)
}

fn test(run: &Run<'_>, options: &Options) -> Result<()> {
    checks::backup::check(run)?;
    if options.data {
        checks::data::check(run).context("data")?;
    }
    Ok(())
}
