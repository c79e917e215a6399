//! Check strings in the syntax of oslo.policy: `role:member and project_id:%(project_id)s`,
//! `rule:other or not role:guest`. The subset that Cinder's rules need; anything else is refused.

/// Most groups and negations that stand within one another.
const DEPTH_MAX: usize = 32;

/// A check string, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    Always,
    Never,
    /// In lower case: roles are compared without regard to case.
    Role(String),
    /// Another rule, by name.
    Rule(String),
    /// The caller's project is the target's.
    OwnProject,
    /// Whether the caller is an administrator, as the rule `context_is_admin` has it.
    Admin(bool),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

impl Expression {
    /// Reads a check string. The error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text);
        if tokens.is_empty() {
            return Ok(Self::Always);
        }
        let mut parser = Parser {
            tokens,
            at: 0,
            depth: 0,
        };
        let expression = parser.either()?;
        match parser.tokens.get(parser.at) {
            None => Ok(expression),
            Some(extra) => Err(format!("`{extra}` is not expected here")),
        }
    }
}

fn tokens(text: &str) -> Vec<String> {
    let spaced = text.replace('(', " ( ");
    // A parenthesis that belongs to `%(project_id)s` stays where it is.
    let spaced = spaced.replace("% ( ", "%(");
    let mut tokens = Vec::new();
    for word in spaced.split_whitespace() {
        let closing = word.chars().rev().take_while(|c| *c == ')').count();
        let is_substitution = word.contains("%(");
        let bare = &word[..word.len() - closing];
        // `%(x)s)` ends in one parenthesis of its own and one of the group.
        let (bare, closing) = if !is_substitution || bare.ends_with('s') {
            (bare, closing)
        } else {
            (word, 0)
        };
        if !bare.is_empty() {
            tokens.push(bare.to_owned());
        }
        tokens.extend(std::iter::repeat_n(")".to_owned(), closing));
    }
    tokens
}

struct Parser {
    tokens: Vec<String>,
    at: usize,
    /// Groups and negations around the present token.
    depth: usize,
}

impl Parser {
    fn accepts(&mut self, word: &str) -> bool {
        let is_it = self
            .tokens
            .get(self.at)
            .is_some_and(|token| token.eq_ignore_ascii_case(word));
        self.at += usize::from(is_it);
        is_it
    }

    fn either(&mut self) -> Result<Expression, String> {
        let mut parts = vec![self.both()?];
        while self.accepts("or") {
            parts.push(self.both()?);
        }
        Ok(single(parts, Expression::Or))
    }

    fn both(&mut self) -> Result<Expression, String> {
        let mut parts = vec![self.one()?];
        while self.accepts("and") {
            parts.push(self.one()?);
        }
        Ok(single(parts, Expression::And))
    }

    fn one(&mut self) -> Result<Expression, String> {
        if self.accepts("not") {
            let inner = self.within(Self::one)?;
            return Ok(Expression::Not(Box::new(inner)));
        }
        if self.accepts("(") {
            let inner = self.within(Self::either)?;
            return if self.accepts(")") {
                Ok(inner)
            } else {
                Err("a `)` is missing".to_owned())
            };
        }
        let Some(token) = self.tokens.get(self.at) else {
            return Err("it ends where a check should follow".to_owned());
        };
        self.at += 1;
        check(token)
    }

    /// Reads one level deeper: each takes some of the stack.
    fn within(
        &mut self,
        read: fn(&mut Self) -> Result<Expression, String>,
    ) -> Result<Expression, String> {
        if self.depth == DEPTH_MAX {
            return Err(format!(
                "more than {DEPTH_MAX} groups and negations stand within one another"
            ));
        }
        self.depth += 1;
        let expression = read(self)?;
        self.depth -= 1;
        Ok(expression)
    }
}

fn single(mut parts: Vec<Expression>, all: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.len() {
        1 => parts.remove(0),
        _ => all(parts),
    }
}

fn check(token: &str) -> Result<Expression, String> {
    match token {
        "@" => return Ok(Expression::Always),
        "!" => return Ok(Expression::Never),
        _ => {}
    }
    match token.split_once(':') {
        Some(("role", name)) if !name.is_empty() => Ok(Expression::Role(name.to_lowercase())),
        Some(("rule", name)) if !name.is_empty() => Ok(Expression::Rule(name.to_owned())),
        Some(("project_id" | "tenant" | "tenant_id", "%(project_id)s" | "%(tenant_id)s")) => {
            Ok(Expression::OwnProject)
        }
        Some(("is_admin", "True" | "true" | "1")) => Ok(Expression::Admin(true)),
        Some(("is_admin", "False" | "false" | "0")) => Ok(Expression::Admin(false)),
        // Cinder sets no other project than the caller's as one of administration.
        Some(("is_admin_project", "True" | "true" | "1")) => Ok(Expression::Always),
        _ => Err(format!(
            "`{token}` is no check this service knows: use role:NAME, rule:NAME, \
             project_id:%(project_id)s, is_admin:True, @ or !"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Expression::{Always, And, Never, Not, Or, OwnProject, Role, Rule};

    fn role(name: &str) -> Expression {
        Role(name.to_owned())
    }

    #[test]
    fn checks_combine_as_in_oslo_policy() {
        let parse = |text: &str| Expression::parse(text).unwrap();
        assert_eq!(parse(""), Always);
        assert_eq!(parse("@"), Always);
        assert_eq!(parse("!"), Never);
        assert_eq!(parse("role:Admin"), role("admin"));
        assert_eq!(
            parse("(role:admin) or (role:reader and project_id:%(project_id)s)"),
            Or(vec![role("admin"), And(vec![role("reader"), OwnProject])])
        );
        assert_eq!(
            parse("not (rule:x or role:a) and role:b"),
            And(vec![
                Not(Box::new(Or(vec![Rule("x".to_owned()), role("a")]))),
                role("b")
            ])
        );
        assert_eq!(
            parse("role:a or role:b and role:c"),
            Or(vec![role("a"), And(vec![role("b"), role("c")])])
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "role",
            "role:",
            "(role:a",
            "role:a)",
            "role:a or",
            "or role:a",
            "not",
            "group:x",
            "project_id:abc",
            "role:a role:b",
            "http://example.org/check",
        ] {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let groups = |depth| format!("{}@{}", "( ".repeat(depth), ")".repeat(depth));
        for (text, is_understood) in [
            (groups(DEPTH_MAX), true),
            (groups(DEPTH_MAX + 1), false),
            (groups(100_000), false),
            (format!("{}@", "not ".repeat(DEPTH_MAX)), true),
            (format!("{}@", "not ".repeat(100_000)), false),
            // Beside one another there may be more.
            (["(not @)"; 100].join(" or "), true),
        ] {
            assert_eq!(
                Expression::parse(&text).is_ok(),
                is_understood,
                "{text:.80}"
            );
        }
    }
}
