//! Users, projects, roles and tokens.

use super::*;

pub(super) fn of_identity() -> Vec<Call> {
    calls! { w;
        identity::user_by_name("user 1000");
        identity::user(&user(1000));
        identity::insert_user(&User::new(UserId::random(), "new", String::new(), Origin::Made));
        identity::put_configured_user(&with(&w.user, |row| row.password_hash = "another".to_owned()));
        identity::end_tokens(&user(1000));
        identity::update_user(&w.user.id, &UserChanges { name: Some("renamed".to_owned()), ..Default::default() });
        identity::configured_users();
        identity::drop_user(&user(1000));
        identity::project_by_name("project 1000");
        identity::project(&project(1000));
        identity::list_projects("project 1000");
        identity::put_project(&Project::new(ProjectId::random(), "put"));
        identity::insert_project(&Project::new(ProjectId::random(), "new"));
        identity::update_project(&w.project.id, &ProjectChanges { name: Some("renamed".to_owned()), ..Default::default() });
        identity::end_project_tokens(&project(1000));
        identity::remove_ended_tokens(&project(1000));
        identity::assignment(&user(1000), &project(1000));
        identity::configured_assignments();
        identity::named_assignments["of all"](None, None, ("user 1000", ""));
        identity::named_assignments(Some(&user(1000)), None, ("", ""));
        identity::named_assignments["in project"](None, Some(&project(1000)), ("", ""));
        identity::remove_assignment(&user(1000), &project(1000));
        identity::role_of(&user(1000), &project(1000));
        identity::projects_of(&user(1000), "");
        identity::put_assignment(&Assignment {
            user_id: user(1000),
            project_id: project(1000),
            role: Role::Admin,
            is_configured: false,
        });
        identity::list_users("user 1000");
        identity::remove_some_tokens(&user(1000));
        identity::remove_user(&user(1000));
        identity::remove_project(&project(BIG));
        identity::insert_token(&with(&w.child, |row| {
            row.hash = b"new".to_vec();
            row.audit_id = "new".to_owned();
        }), NOW, TokensMax { chain: 1000, user: 1000 });
        identity::find_token(id(OTHER).as_bytes(), NOW);
        identity::revoke_token(&w.token);
        credentials::insert(&with(&w.credential, |row| {
            row.id = "new".to_owned();
            row.name = "new".to_owned();
        }));
        credentials::count(&user(1000));
        credentials::find(&id(OTHER));
        credentials::find_by_name(&w.credential.user_id, &w.credential.name);
        credentials::of_user(&w.credential.user_id);
        credentials::remove(&id(OTHER));
        credentials::remove_of_user(&w.credential.user_id, None);
        credentials::remove_of_user["in project"](&w.credential.user_id, Some(&w.credential.project_id));
        identity::end_credentials(&w.credential.user_id, &w.credential.project_id);
        identity::lock_roles();
    }
}
