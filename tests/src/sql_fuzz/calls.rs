//! Calls of the functions of schema `auth`, with arguments that fit: by name and type, and most of one person, so that
//! what belongs together (a session, its user, their organization and address) comes together.

use std::collections::BTreeMap;

use super::grammar::{Function, Grammar};

/// What the attacker knows of somebody, by the name of an argument.
pub type Person = BTreeMap<String, String>;

/// The name under which a person has what an argument of that name takes.
fn known_as(argument: &str) -> &str {
    match argument {
        "of_session" | "family_id" | "of_family" | "except_session_id" | "but_not" | "reused_jti" => "session_id",
        "of_user" | "owner_id" | "after_id" => "user_id",
        "of_organization" => "organization_id",
        "new_email" => "email",
        "organization_slug" => "slug",
        other => other,
    }
}

impl Grammar<'_> {
    /// A call, mostly of a function that one is let into, and mostly with what is a victim's.
    pub(super) fn call(&mut self) -> String {
        let know = self.know;
        let is_let_in = self.chance(85);
        // Who one is, is asked after each statement.
        let is_wanted = |function: &&Function| function.allowed == is_let_in && !function.arguments.is_empty();
        let functions: Vec<_> = know.functions.iter().filter(is_wanted).collect();
        let function = functions[self.number(functions.len())];
        let people = if self.chance(85) { &know.victims } else { &know.own };
        let person = &people[self.number(people.len())];
        let left_out = self.number(function.defaults + 1);
        let given = &function.arguments[..function.arguments.len() - left_out];
        let mut arguments = Vec::new();
        for (name, of) in given {
            // Now and then somebody else's, or what one is let into oneself: what does not belong together.
            let given_by = match self.number(20) {
                0..3 => &know.victims[self.number(know.victims.len())],
                3..8 if known_as(name) == "organization_id" => &know.own[self.number(know.own.len())],
                _ => person,
            };
            arguments.push(self.argument(given_by, name, of));
        }
        format!("{}({})", function.name, arguments.join(", "))
    }

    fn argument(&mut self, person: &Person, name: &str, of: &str) -> String {
        if self.chance(8) {
            return self.literal(of);
        }
        if known_as(name) == "email" && self.chance(25) {
            return format!("'eve-{}@example.org'::{of}", self.number(1_000_000));
        }
        if let Some(value) = person.get(known_as(name)) {
            return format!("'{}'::{of}", value.replace('\'', "''"));
        }
        // What is no person's, but has a form: with another one the function would end before it did anything.
        let made_up = match name {
            "ticket" | "lookup_id" | "password_salt" | "renewed_salt" => return self.bytes(16),
            _ if of == "bytea" => return self.bytes(32),
            "role" => self.pick(&["ORGANIZATION_OWNER", "ORGANIZATION_ADMIN", "ORGANIZATION_MEMBER"]),
            "reason" => self.pick(&["logged_out", "session_revoked", "stolen"]),
            "user_type" => self.pick(&["INDIVIDUAL", "BUSINESS", "ADMIN"]),
            "password_params" | "renewed_params" => "m=65536,t=3,p=1",
            "scopes" => "{profile:read,sessions:read}",
            "verifier_version" | "pepper_id" | "renewed_pepper_id" => "1",
            "generation" => self.pick(&["0", "1", "2"]),
            "page_size" | "batch_size" => self.pick(&["1", "50"]),
            "correlation_id" | "user_agent" | "device_name" | "name" | "description" | "website" => "x",
            _ if of == "interval" => self.pick(&["1 hour", "30 days"]),
            _ => return self.literal(of),
        };
        format!("'{made_up}'::{of}")
    }

    /// Bytes that the attacker has, of a length.
    fn bytes(&mut self, length: usize) -> String {
        let fitting: Vec<&String> = self.know.bytes.iter().filter(|bytes| bytes.len() == 2 * length).collect();
        format!("'\\x{}'::bytea", fitting[self.number(fitting.len())])
    }
}
