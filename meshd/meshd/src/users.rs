//! Which user ids the users of a configuration have, by /etc/passwd.
//!
//! Strategy: the file is read directly, since a static program has no NSS. Names are looked up whenever a configuration is
//! taken up, so that a user who was deleted and made anew is found again at the next switch or start.
//!
//! What it does not do: ask directories (LDAP, `userdb`); their users are given by number.

use std::fs;
use std::ops::RangeInclusive;

use crate::conf::User;
use crate::failure::{Exit, Failure};

/// Ranges of user ids, sorted; they neither overlap nor touch.
pub type Uids = Vec<RangeInclusive<u32>>;

/// The user ids of `users`, and a failure for each name that there is none for.
pub fn find(users: &[User]) -> (Uids, Vec<Failure>) {
    let named = users.iter().any(|user| matches!(user, User::Name(_)));
    let passwd = if named {
        fs::read_to_string("/etc/passwd")
    } else {
        Ok(String::new())
    };
    match passwd {
        Ok(passwd) => find_in(&passwd, users),
        Err(error) => {
            let failure = Failure::new("/etc/passwd", error, "name users by number");
            (find_in("", users).0, vec![failure.exit(Exit::BadConf)])
        }
    }
}

fn find_in(passwd: &str, users: &[User]) -> (Uids, Vec<Failure>) {
    let mut failures = Vec::new();
    let mut refuse = |name: &str, why: &str, hint: &str| {
        let why = format!("{name} {why}");
        failures.push(Failure::new("conf, RouteUsers", why, hint).exit(Exit::BadConf));
    };
    let mut uids = Vec::new();
    for user in users {
        match user {
            User::Ids(first, last) => uids.push(*first..=*last),
            User::Name(name) => match uid_of(passwd, name) {
                Some(0) => refuse(name, "is another name of root", "name other users"),
                Some(uid) => uids.push(uid..=uid),
                None => refuse(
                    name,
                    "is no user in /etc/passwd of this host",
                    "make the user first, or give its number",
                ),
            },
        }
    }
    (merge(uids), failures)
}

/// The third field of the line that begins with the name (passwd(5)).
fn uid_of(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let uid = fields.nth(1).filter(|_| found)?;
        uid.parse().ok()
    })
}

fn merge(mut uids: Uids) -> Uids {
    uids.sort_by_key(|range| (*range.start(), *range.end()));
    let mut merged: Uids = Vec::new();
    for range in uids {
        match merged.last_mut() {
            Some(before) if *range.start() <= before.end().saturating_add(1) => {
                *before = *before.start()..=*before.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nalice:x:1001:1001::/:/bin/sh\n\
        bob:x:1002:100:Bob, the other:/:\nbroken\nodd:x:x:1:::\nlast:x:4294967294:1:::";

    fn found(users: &[&str]) -> (Uids, Vec<String>) {
        let users: Vec<User> = users
            .iter()
            .map(|user| User::parse(user).unwrap())
            .collect();
        let (uids, failures) = find_in(PASSWD, &users);
        (uids, failures.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_and_numbers_become_ranges_that_do_not_touch() {
        let (uids, failures) = found(&["bob", "alice", "2000-2999", "2500-3000", "7"]);
        assert_eq!(uids, [7..=7, 1001..=1002, 2000..=3000]);
        assert!(failures.is_empty());
        assert_eq!(found(&["last", "4294967294"]).0, [4294967294..=4294967294]);
        assert_eq!(found(&[]).0, []);
    }

    #[test]
    fn who_is_not_there_and_who_is_root_is_refused_and_the_others_are_found() {
        let (uids, failures) = found(&["alice", "mallory", "toor", "broken", "odd"]);
        assert_eq!(uids, [1001..=1001]);
        assert_eq!(failures.len(), 4);
        assert!(
            failures[0].contains("mallory is no user in /etc/passwd"),
            "{failures:?}"
        );
        assert!(failures[1].contains("another name of root"), "{failures:?}");
    }
}
