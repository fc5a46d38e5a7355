//! A configuration with everything that is needed to take it live, and whether it can be.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::closed;
use crate::conf::{canonical, Conf, PrivateKey, Secret, Table, ToBase64};
use crate::digest::sha256;
use crate::failure::{Exit, Failure};
use crate::paths;
use crate::read::{parse, private_key_file};
use crate::safe::Id;
use crate::users::{self, Uids};

/// See the file's head.
#[derive(Clone)]
pub struct Loaded {
    /// SHA-256 of its bytes.
    pub id: Id,
    /// `None`: absent.
    pub conf: Option<Conf>,
    /// The private key; none when absent.
    pub key: Option<Secret>,
    /// The user ids of its `RouteUsers`, as this host has them.
    pub uids: Uids,
}

impl Loaded {
    /// No interface.
    pub fn absent() -> Self {
        Self {
            id: sha256(b""),
            conf: None,
            key: None,
            uids: Uids::new(),
        }
    }

    /// Reads the bytes of a configuration. `key` is the private key, when it is kept in a file that was read already.
    /// A user that this host doesn't have is refused.
    pub fn read(bytes: &[u8], key: Option<Secret>) -> Result<Self, Vec<Failure>> {
        let (loaded, unknown) = Self::read_with_unknown(bytes, key)?;
        if unknown.is_empty() {
            Ok(loaded)
        } else {
            Err(unknown)
        }
    }

    /// The same with a failure for each of its users that this host doesn't have.
    fn read_with_unknown(
        bytes: &[u8],
        key: Option<Secret>,
    ) -> Result<(Self, Vec<Failure>), Vec<Failure>> {
        let conf = parse("conf", bytes)?.conf;
        let refused: Vec<Failure> = conf.iter().flat_map(beyond_us).collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        let key = match (&conf, key) {
            (None, _) => None,
            (Some(_), Some(key)) => Some(key),
            (Some(conf), None) => Some(match &conf.interface.private_key {
                PrivateKey::Inline(secret) => secret.clone(),
                PrivateKey::File(path) => private_key_file(&readable(path))?,
            }),
        };
        let route_users = conf.iter().flat_map(|conf| &conf.interface.route_users);
        let (uids, unknown) = users::find(&route_users.cloned().collect::<Vec<_>>());
        let loaded = Self {
            id: sha256(bytes),
            conf,
            key,
            uids,
        };
        Ok((loaded, unknown))
    }

    /// The confirmed configuration of mesh `name`: as handed in by the service manager, or from its file. A missing file
    /// means absent. A user who has gone since has no packets, and costs nobody the mesh.
    pub fn confirmed(name: &str) -> Result<Self, Vec<Failure>> {
        let path = readable(&paths::conf(name));
        match fs::read(&path) {
            Ok(bytes) => {
                let (loaded, unknown) = Self::read_with_unknown(&bytes, None)?;
                for failure in unknown {
                    eprintln!("meshd: warning: {failure}");
                }
                Ok(loaded)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::absent()),
            Err(error) => Err(Failure::new(path.display().to_string(), error, "").into()),
        }
    }

    /// Its canonical text.
    pub fn canonical(&self) -> String {
        canonical(self.conf.as_ref(), self.key.as_ref().map(Secret::public))
    }

    /// Its public key in base64.
    pub fn public_key(&self) -> Option<String> {
        self.key.as_ref().map(|key| key.public().to_base64())
    }
}

/// Where a file of /etc/meshd can be read: a service manager hands copies to a daemon that may not read the folder.
fn readable(path: &Path) -> PathBuf {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY");
    let handed = folder
        .zip(path.file_name())
        .map(|(folder, name)| Path::new(&folder).join(name));
    handed
        .filter(|path| path.exists())
        .unwrap_or_else(|| path.to_owned())
}

/// What the language has and this version doesn't do: refused rather than half done, because silence would leak.
fn beyond_us(conf: &Conf) -> Vec<Failure> {
    let refuse = |key: &str, why: &str, hint: &str| {
        Failure::new(format!("conf, {key}"), why, hint).exit(Exit::BadConf)
    };
    let mut failures = Vec::new();
    if conf.interface.kill_switch && conf.interface.table != Table::Auto {
        failures.push(refuse(
            "KillSwitch",
            "it needs routing tables of its own",
            "remove the Table line",
        ));
    }
    if !conf.interface.route_users.is_empty() {
        failures
            .extend(route_users_beyond_us(conf).map(|(why, hint)| refuse("RouteUsers", why, hint)));
    }
    if conf.interface.exit {
        failures.extend(exit_beyond_us(conf).map(|(why, hint)| refuse("Exit", why, hint)));
    }
    if let Some(namespace) = &conf.interface.namespace {
        let why = format!("the interface lives in the network namespace {namespace}");
        if conf.interface.kill_switch {
            let hint = "remove the line: in there is no other way out";
            failures.push(refuse("KillSwitch", &why, hint));
        }
        if !conf.interface.forward.is_empty() {
            failures.push(refuse("Forward", &why, "remove one of the two lines"));
        }
    }
    failures
}

/// Why this host can't be a way out with this configuration, and what to do.
fn exit_beyond_us(conf: &Conf) -> Option<(&'static str, &'static str)> {
    let interface = &conf.interface;
    if interface.kill_switch {
        let why = "KillSwitch keeps everything from the link that it would leave by";
        Some((why, "remove one of the two lines"))
    } else if !interface.route_users.is_empty() {
        let why =
            "RouteUsers needs a peer as the default way, and an exit leaves by this host's own";
        Some((why, "remove one of the two lines"))
    } else if interface.namespace.is_some() {
        let why = "in a namespace there is no link that it could leave by";
        Some((why, "remove one of the two lines"))
    } else if interface.table != Table::Auto {
        let why = "its answers find the peers by the main routing table";
        Some((why, "remove the Table line"))
    } else if !closed::defaults(conf).is_empty() {
        let why = "a peer is the default way, and an exit leaves by this host's own";
        let hint =
            "take 0.0.0.0/0, ::/0 and halves of them out of AllowedIPs, or remove the Exit line";
        Some((why, hint))
    } else {
        None
    }
}

/// Why the users' packets can't be told apart with this configuration, and what to do.
fn route_users_beyond_us(conf: &Conf) -> Option<(&'static str, &'static str)> {
    let interface = &conf.interface;
    if interface.kill_switch {
        let why = "KillSwitch closes the host for everybody";
        Some((why, "remove one of the two lines"))
    } else if interface.table != Table::Auto {
        let why = "it needs routing tables of its own";
        Some((why, "remove the Table line"))
    } else if interface.namespace.is_some() {
        let why = "in a namespace there is no other way for anybody";
        Some((why, "remove one of the two lines"))
    } else if closed::defaults(conf).is_empty() {
        let why = "no peer is a default way";
        Some((why, "give one AllowedIPs = 0.0.0.0/0, ::/0"))
    } else {
        None
    }
}
