//! The first start makes passwords for its users, and the file for clients.
//!
//! The passwords stand in a private file of their own, so that every start can write `clouds.yaml`
//! anew with the address it has now; the database keeps only their hashes.

use crate::app::{StartError, locks};
use crate::config::{ConfiguredUser, Secret, without_content};
use crate::db::DbError;
use crate::identity::embedded::random_text;
use crate::model::role::Role;
use serde::Deserialize;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Name, project and role of the users that exist when none is configured.
const DEFAULT_USERS: [(&str, &str, Role); 2] = [
    ("demo", "demo", Role::Member),
    ("admin", "admin", Role::Admin),
];

#[derive(Deserialize)]
struct UsersFile {
    users: Vec<ConfiguredUser>,
}

/// The default users.
pub(super) struct DefaultUsers {
    pub(super) users: Vec<ConfiguredUser>,
    /// Whether this start has made them.
    pub(super) are_new: bool,
}

fn users_file(data_dir: &Path) -> PathBuf {
    data_dir.join("keys").join("users.toml")
}

/// The default users, with the passwords the first start gave them. None are made if the database has users of a
/// configuration already: those of another host, whose passwords new ones would replace.
pub(super) fn default_users(
    data_dir: &Path,
    has_users: impl FnOnce() -> Result<bool, DbError>,
) -> Result<DefaultUsers, StartError> {
    let path = users_file(data_dir);
    match std::fs::read_to_string(&path) {
        Ok(text) => match toml::from_str::<UsersFile>(&text) {
            Ok(file) => Ok(DefaultUsers {
                users: file.users,
                are_new: false,
            }),
            Err(error) => Err(StartError::Users {
                path,
                message: without_content(&text, &error),
            }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if has_users()? {
                return Err(StartError::OtherUsers(path));
            }
            let users = make_users(&path)?;
            Ok(DefaultUsers {
                users,
                are_new: true,
            })
        }
        Err(source) => Err(StartError::File { path, source }),
    }
}

/// Removes the users that this start has made: another host that started at the same time was first.
pub(super) fn take_back(data_dir: &Path) -> StartError {
    let path = users_file(data_dir);
    match std::fs::remove_file(&path) {
        Ok(()) => StartError::OtherUsers(path),
        Err(source) => StartError::File { path, source },
    }
}

fn make_users(path: &Path) -> Result<Vec<ConfiguredUser>, StartError> {
    let users: Vec<ConfiguredUser> = DEFAULT_USERS
        .iter()
        .map(|(name, project, role)| ConfiguredUser {
            name: (*name).to_owned(),
            password: Secret::from(random_text(18).as_str()),
            project: (*project).to_owned(),
            role: *role,
        })
        .collect();
    let mut text = String::from("# Made by the first start. Change a password here and restart.\n");
    for user in &users {
        text.push_str(&format!(
            "\n[[users]]\nname = \"{}\"\npassword = \"{}\"\nproject = \"{}\"\nrole = \"{}\"\n",
            user.name,
            user.password.expose(),
            user.project,
            user.role
        ));
    }
    write_private(path, &text)?;
    Ok(users)
}

/// Writes the file for clients: an ordinary member and the administrator. Processes that start at the same time do so
/// one after another, as each fills the same file beside it.
pub(super) fn write_clouds_yaml(
    data_dir: &Path,
    url: &str,
    region: &str,
    users: &[ConfiguredUser],
) -> Result<PathBuf, StartError> {
    let _starting = locks::starting(data_dir)?;
    let path = data_dir.join("clouds.yaml");
    let mut text = String::from("# Written anew at every start of embervault.\nclouds:\n");
    for user in users {
        let cloud = match user.role {
            Role::Admin => "embervault-admin",
            Role::Member | Role::Reader => "embervault",
        };
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        text.push_str(&format!(
            "  {cloud}:\n    auth:\n      auth_url: {}\n      username: {}\n      password: {}\n      \
             project_name: {}\n      user_domain_id: default\n      project_domain_id: default\n    \
             region_name: {}\n    identity_api_version: 3\n",
            quoted(&format!("{url}/identity/v3")),
            quoted(&user.name),
            quoted(user.password.expose()),
            quoted(&user.project),
            quoted(region),
        ));
    }
    write_private(&path, &text)?;
    Ok(path)
}

/// Replaces a file by one with mode 0600, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), StartError> {
    let partial = path.with_extension("partial");
    let write = || {
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        }
        std::fs::remove_file(&partial).ok();
        let mut file = std::fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_passwords_are_made_where_another_host_has_made_some() {
        let dir = tempfile::tempdir().unwrap();
        let refused = default_users(dir.path(), || Ok(true)).err().unwrap();
        assert!(refused.to_string().contains("identity.users"), "{refused}");
        assert!(!users_file(dir.path()).exists());
        let made = default_users(dir.path(), || Ok(false)).unwrap();
        assert!(made.are_new);
        // What was made here, or copied to here, is good whatever the database has.
        let read = default_users(dir.path(), || Ok(true)).unwrap();
        assert!(!read.are_new);
        let passwords = |users: &DefaultUsers| -> Vec<String> {
            let each = users.users.iter();
            each.map(|user| user.password.expose().to_owned()).collect()
        };
        assert_eq!(passwords(&read), passwords(&made));
        take_back(dir.path());
        assert!(!users_file(dir.path()).exists());
    }

    #[test]
    fn processes_that_start_together_all_write_the_file_for_clients() {
        let dir = tempfile::tempdir().unwrap();
        let users = default_users(dir.path(), || Ok(false)).unwrap().users;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        write_clouds_yaml(dir.path(), "http://127.0.0.1", "here", &users).unwrap();
                    }
                });
            }
        });
        assert!(!dir.path().join("clouds.partial").exists());
    }
}
