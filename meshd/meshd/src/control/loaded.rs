//! A configuration with everything that is needed to take it live, and whether it can be.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::conf::{canonical, Conf, PrivateKey, Secret, Table, ToBase64};
use crate::digest::sha256;
use crate::failure::{Exit, Failure};
use crate::paths;
use crate::read::{parse, private_key_file};
use crate::safe::Id;

/// See the file's head.
#[derive(Clone)]
pub struct Loaded {
    /// SHA-256 of its bytes.
    pub id: Id,
    /// `None`: absent.
    pub conf: Option<Conf>,
    /// The private key; none when absent.
    pub key: Option<Secret>,
}

impl Loaded {
    /// No interface.
    pub fn absent() -> Self {
        Self {
            id: sha256(b""),
            conf: None,
            key: None,
        }
    }

    /// Reads the bytes of a configuration. `key` is the private key, when it is kept in a file that was read already.
    pub fn read(bytes: &[u8], key: Option<Secret>) -> Result<Self, Vec<Failure>> {
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
        Ok(Self {
            id: sha256(bytes),
            conf,
            key,
        })
    }

    /// The confirmed configuration of mesh `name`: as handed in by the service manager, or from its file. A missing file
    /// means absent.
    pub fn confirmed(name: &str) -> Result<Self, Vec<Failure>> {
        let path = readable(&paths::conf(name));
        match fs::read(&path) {
            Ok(bytes) => Self::read(&bytes, None),
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
