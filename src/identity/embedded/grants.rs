//! Roles as an administrator gives and takes them. Those that the configuration gives are changed there: the next start
//! would set them again.

use crate::db;
use crate::db::standalone::identity;
use crate::identity::embedded::Embedded;
use crate::identity::embedded::accounts::configured;
use crate::model::error::Error;
use crate::model::id::{ProjectId, UserId};
use crate::model::role::Role;
use crate::model::standalone::identity::Assignment;

impl Embedded {
    /// Gives a user a role in a project, unless it has a higher one there. `false` if either does
    /// not exist.
    pub fn assign(&self, user: &UserId, project: &ProjectId, role: Role) -> Result<bool, Error> {
        self.db.write(|c| {
            db::lock(c, user.as_str())?;
            db::lock(c, project.as_str())?;
            let exist =
                identity::user(c, user)?.is_some() && identity::project(c, project)?.is_some();
            let known = identity::assignment(c, user, project)?;
            // Roles are declared from the highest on.
            if exist && known.as_ref().is_none_or(|known| role < known.role) {
                refuse_configured(known.as_ref())?;
                let assignment = Assignment {
                    user_id: user.clone(),
                    project_id: project.clone(),
                    role,
                    is_configured: false,
                };
                identity::put_assignment(c, &assignment)?;
            }
            Ok(exist)
        })
    }

    /// Takes a user's role in a project away, and ends the user's tokens there; `false` if the user does not have it.
    pub fn unassign(&self, user: &UserId, project: &ProjectId, role: Role) -> Result<bool, Error> {
        self.db.write(|c| {
            db::lock(c, user.as_str())?;
            let known = identity::assignment(c, user, project)?;
            let known = known.filter(|known| known.role == role);
            refuse_configured(known.as_ref())?;
            if known.is_some() {
                identity::remove_assignment(c, user, project)?;
            }
            Ok(known.is_some())
        })
    }
}

fn refuse_configured(known: Option<&Assignment>) -> Result<(), Error> {
    match known {
        Some(known) if known.is_configured => {
            Err(configured("user", "role in this project", "change it"))
        }
        _ => Ok(()),
    }
}
