//! Tokens of the embedded identity.

use super::*;
use embervault::db::standalone::identity::{self, Issued, TokensMax};
use embervault::model::column::Json;
use embervault::model::role::Role;
use embervault::model::standalone::identity::{Assignment, Origin, Project, TokenRow, User};

/// A token of a user in project `p`, got with another one or with a log-in of its own.
fn token(name: &str, user: &str, parent: Option<&TokenRow>) -> TokenRow {
    TokenRow {
        hash: name.as_bytes().to_vec(),
        audit_id: name.to_owned(),
        parent_audit_id: parent.map(|parent| parent.audit_id.clone()),
        chain_id: parent.map_or(name, |parent| &parent.chain_id).to_owned(),
        user_id: UserId::new(user),
        generation: 0,
        project_id: Some(ProjectId::new("p")),
        project_generation: 0,
        methods: Json::new(Vec::new()),
        application_credential_id: None,
        issued_at: Timestamp(100),
        expires_at: Timestamp(200),
    }
}

/// A database with the projects `p` and `q` and two users, who are members of both.
fn identity_bed(database: Database) -> Bed {
    let bed = bed(database);
    bed.db
        .write(|c| -> db::DbResult<()> {
            for project in ["p", "q"] {
                identity::insert_project(c, &Project::new(ProjectId::new(project), project))?;
            }
            for user in ["u", "v"] {
                let row = User::new(UserId::new(user), user, String::new(), Origin::Made);
                identity::insert_user(c, &row)?;
                for project in ["p", "q"] {
                    let assignment = Assignment {
                        user_id: UserId::new(user),
                        project_id: ProjectId::new(project),
                        role: Role::Member,
                        is_configured: false,
                    };
                    identity::put_assignment(c, &assignment)?;
                }
            }
            Ok(())
        })
        .unwrap();
    bed
}

const FEW: TokensMax = TokensMax { chain: 3, user: 5 };

fn issue(db: &Db, row: &TokenRow, now: i64) -> Issued {
    db.write(|c| identity::insert_token(c, row, Timestamp(now), FEW))
        .unwrap()
}

#[test]
fn a_log_in_and_a_user_have_few_tokens_that_are_alive() {
    for database in BOTH {
        let bed = identity_bed(database);
        let first = token("0", "u", None);
        assert_eq!(issue(&bed.db, &first, 150), Issued::Added);
        let got = |number: i32| issue(&bed.db, &token(&number.to_string(), "u", Some(&first)), 150);
        let issued: Vec<Issued> = (1..4).map(got).collect();
        assert_eq!(issued, [Issued::Added, Issued::Added, Issued::TooMany]);
        let new = |name: &str, user: &str, now| issue(&bed.db, &token(name, user, None), now);
        assert_eq!(new("5", "u", 150), Issued::Added);
        assert_eq!(new("6", "u", 150), Issued::Added);
        assert_eq!(new("7", "u", 150), Issued::TooMany);
        assert_eq!(new("8", "v", 150), Issued::Added);
        // Those that have expired do not count.
        assert_eq!(new("9", "u", 200), Issued::Added);
    }
}

#[test]
fn tokens_in_a_project_that_ended_go_one_user_at_a_time_with_all_that_were_got_with_them() {
    for database in BOTH {
        let bed = identity_bed(database);
        let elsewhere = |row: TokenRow| TokenRow {
            project_id: Some(ProjectId::new("q")),
            ..row
        };
        let parents = [token("pu", "u", None), token("pv", "v", None)];
        let before = [
            elsewhere(token("qu", "u", None)),
            elsewhere(token("child of pu", "u", Some(&parents[0]))),
            elsewhere(token("child of pv", "v", Some(&parents[1]))),
        ];
        for row in parents.iter().chain(&before) {
            assert_eq!(issue(&bed.db, row, 150), Issued::Added);
        }
        let p = ProjectId::new("p");
        bed.db
            .write(|c| identity::end_project_tokens(c, &p))
            .unwrap();
        // A request that looked at the parent before.
        let late = elsewhere(token("late", "u", Some(&parents[0])));
        assert_eq!(issue(&bed.db, &late, 150), Issued::Ended);
        assert_eq!(issue(&bed.db, &token("old", "u", None), 150), Issued::Ended);
        let new = TokenRow {
            project_generation: 1,
            ..token("new", "u", None)
        };
        assert_eq!(issue(&bed.db, &new, 150), Issued::Added);
        let removed = || {
            bed.db
                .write(|c| identity::remove_ended_tokens(c, &p))
                .unwrap()
        };
        assert_eq!([removed(), removed(), removed()], [true, true, false]);
        let left = |row: &TokenRow| {
            let found = bed
                .db
                .read(|c| identity::find_token(c, &row.hash, Timestamp(150)));
            found.unwrap().is_some()
        };
        let rows = parents.iter().chain(&before).chain([&new]);
        let left: Vec<&str> = rows
            .filter(|row| left(row))
            .map(|row| row.audit_id.as_str())
            .collect();
        assert_eq!(left, ["qu", "new"]);
    }
}
