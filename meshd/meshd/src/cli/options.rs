//! The arguments of the command line, read once into one type. Which command takes which is in the table `COMMANDS`;
//! anything else is refused with a hint.

use std::ffi::OsString;
use std::time::Duration;

use lexopt::Arg;

use crate::failure::Failure;

/// What each command takes: does it take a NAME, and which options.
const COMMANDS: [(&str, bool, &[&str]); 23] = [
    ("bare", true, &[]),
    ("check", false, &["canonical"]),
    ("confirm", true, &["id", "wait", "force", "json"]),
    ("exec", true, &[]),
    ("genkey", false, &[]),
    ("guard", true, &[]),
    ("help", false, &[]),
    ("ping", true, &["wait", "json"]),
    ("pubkey", false, &[]),
    ("remove", true, &[]),
    ("report", true, &["json"]),
    ("rollback", true, &[]),
    ("run", true, &[]),
    ("space", true, &[]),
    ("stage", true, &["id"]),
    ("start", true, &[]),
    ("status", true, &["json"]),
    ("stop", true, &[]),
    // What the unit runs before a stop or restart; not for people.
    ("stopping", true, &[]),
    // What `start` runs in the background; not for people.
    ("supervise", true, &[]),
    ("switch", true, &["id", "within", "json"]),
    ("upgrade", true, &[]),
    ("version", false, &["json"]),
];

/// A command with its arguments.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The command.
    pub command: String,
    /// NAME, checked; empty for commands without one.
    pub name: String,
    /// `--id`: identifier of a configuration; empty when not given.
    pub id: String,
    /// `--within`: until a switch goes back.
    pub within: Option<Duration>,
    /// `--wait`: how long to probe.
    pub wait: Option<Duration>,
    /// `--force`.
    pub force: bool,
    /// `--json`.
    pub json: bool,
    /// `--canonical`.
    pub canonical: bool,
    /// What `exec` runs, with its arguments.
    pub program: Vec<OsString>,
}

impl Options {
    /// Reads the arguments.
    pub fn parse(mut parser: lexopt::Parser) -> Result<Self, Failure> {
        let mut options = Self::default();
        while let Some(arg) = parser.next().map_err(usage)? {
            match arg {
                Arg::Short('h') | Arg::Long("help") => {
                    return Ok(Self {
                        command: "help".into(),
                        ..Self::default()
                    });
                }
                Arg::Short('V') | Arg::Long("version") if options.command.is_empty() => {
                    return Ok(Self {
                        command: "version".into(),
                        ..Self::default()
                    });
                }
                Arg::Long(name) => {
                    let name = name.to_owned();
                    options.option(&name, &mut parser)?;
                }
                Arg::Short(letter) => return Err(usage(format!("there is no option -{letter}"))),
                Arg::Value(value) if options.command.is_empty() => {
                    options.command = value.to_string_lossy().into_owned();
                    if !COMMANDS
                        .iter()
                        .any(|(command, ..)| *command == options.command)
                    {
                        return Err(usage(format!("there is no command `{}`", options.command)));
                    }
                }
                Arg::Value(value) if options.name.is_empty() && options.takes_name() => {
                    options.name = mesh_name(&value.to_string_lossy())?;
                }
                Arg::Value(value) if options.command == "exec" => {
                    // Whatever follows is the program's.
                    options.program.push(value);
                    options.program.extend(parser.raw_args().map_err(usage)?);
                }
                Arg::Value(value) => {
                    return Err(usage(format!(
                        "`{}` is one too many",
                        value.to_string_lossy()
                    )));
                }
            }
        }
        if options.command.is_empty() {
            return Err(usage("there is no command"));
        }
        if options.takes_name() && options.name.is_empty() {
            return Err(usage(format!("`{}` needs a name", options.command)));
        }
        if options.command == "exec" && options.program.is_empty() {
            return Err(usage("`exec` needs a program: meshd exec NAME -- PROGRAM"));
        }
        if ["stage", "switch", "confirm"].contains(&options.command.as_str())
            && options.id.is_empty()
        {
            return Err(usage(format!("`{}` needs --id", options.command)));
        }
        Ok(options)
    }

    fn takes_name(&self) -> bool {
        COMMANDS
            .iter()
            .any(|(command, name, _)| *command == self.command && *name)
    }

    fn option(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<(), Failure> {
        let takes = |(command, _, options): &(&str, bool, &[&str])| {
            *command == self.command && options.contains(&name)
        };
        if !COMMANDS.iter().any(takes) {
            return Err(usage(format!("there is no option --{name} here")));
        }
        let mut value = || {
            parser
                .value()
                .map(|v| v.to_string_lossy().into_owned())
                .map_err(usage)
        };
        match name {
            "id" => self.id = value()?.to_ascii_lowercase(),
            "within" => self.within = Some(seconds(name, &value()?)?),
            "wait" => self.wait = Some(seconds(name, &value()?)?),
            "force" => self.force = true,
            "json" => self.json = true,
            _ => self.canonical = true,
        }
        Ok(())
    }
}

fn usage(why: impl ToString) -> Failure {
    Failure::new("arguments", why, "see `meshd help`")
}

/// At most a week: longer is a slip, and is no safety net.
fn seconds(name: &str, text: &str) -> Result<Duration, Failure> {
    match text.parse::<f64>() {
        Ok(n) if (0.0..=604_800.0).contains(&n) => Ok(Duration::from_secs_f64(n)),
        _ => Err(usage(format!("--{name} needs seconds, not `{text}`"))),
    }
}

/// NAME is `[a-z][a-z0-9-]{0,14}`: it is a link's name (IFNAMSIZ is 16 with the final zero) and part of file names.
fn mesh_name(text: &str) -> Result<String, Failure> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if first && text.len() <= 15 && text.bytes().all(inner) {
        Ok(text.to_owned())
    } else {
        let hint = "use up to 15 lower-case letters, digits and dashes, a letter first";
        Err(Failure::new(
            "arguments",
            format!("`{text}` is not a mesh's name"),
            hint,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, Failure> {
        Options::parse(lexopt::Parser::from_args(args))
    }

    #[test]
    fn a_whole_command() {
        let options = parse(&["switch", "prod", "--id", "AB", "--within=60", "--json"]).unwrap();
        assert_eq!(
            (options.name.as_str(), options.id.as_str(), options.json),
            ("prod", "ab", true)
        );
        assert_eq!(options.within, Some(Duration::from_secs(60)));
    }

    #[test]
    fn slips_are_refused() {
        for args in [
            &[][..],
            &["dance"],
            &["run"],
            &["run", "prod", "x"],
            &["run", "Prod"],
            &["run", "../x"],
            &["run", "a23456789012345x"],
            &["stage", "prod"],
            &["status", "prod", "--within", "1"],
            &["switch", "p", "--id", "a", "--within", "soon"],
            &["switch", "p", "--id", "a", "--within", "-1"],
            &["ping", "p", "--wait"],
            &["genkey", "-x"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn help_wins() {
        assert_eq!(parse(&["--help"]).unwrap().command, "help");
        assert_eq!(parse(&["run", "-h"]).unwrap().command, "help");
        assert_eq!(parse(&["-V"]).unwrap().command, "version");
    }
}
