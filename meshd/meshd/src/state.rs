//! The one thing meshd keeps between runs: the high-water mark of its TAI64N labels.
//!
//! A responder remembers the greatest label of each initiator (paper §5.1), so a host whose clock was set back, or which
//! boots without a clock, would be locked out until it caught up. Strategy: the file holds the greatest label as of at
//! most an hour of labels ago, so that it is written rarely; where the clock is found behind the file, labels start an
//! hour above it. Written beside and renamed over, so that a reader finds the old mark or the new one. Without a folder
//! to write to, the mark lives in memory only.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use meshd_proto::{Tai64n, WallTime};

/// How far labels may run ahead of the file, seconds.
const SLACK: u64 = 3600;

/// The file of one mesh.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    /// What the file holds; `None`: not written by this process yet.
    written: Option<Tai64n>,
}

impl State {
    /// The state of mesh `name` in `$STATE_DIRECTORY` or /var/lib/meshd, and the label to start above.
    pub fn open(name: &str, wall: WallTime) -> (Self, Tai64n) {
        let path = crate::paths::label_mark(name);
        let mark = fs::read(&path)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Tai64n);
        let start = mark.map_or(Tai64n::ZERO, |mark| {
            start_above(mark, Tai64n::from_wall(wall))
        });
        (
            Self {
                path,
                written: None,
            },
            start,
        )
    }

    /// Notes that labels up to `used` were given; writes when it is time. An error is worth a warning, no more.
    pub fn note(&mut self, used: Tai64n) -> io::Result<()> {
        match self.written {
            Some(written) if used < later(written) => Ok(()),
            _ => self.write(used),
        }
    }

    /// Writes `used` for good, at the end.
    pub fn close(&mut self, used: Tai64n) -> io::Result<()> {
        if used == Tai64n::ZERO || self.written == Some(used) {
            Ok(())
        } else {
            self.write(used)
        }
    }

    fn write(&mut self, mark: Tai64n) -> io::Result<()> {
        // Even if it fails: not to be tried again at every handshake.
        self.written = Some(mark);
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let beside = self.path.with_extension("tai64n.new");
        let mut file = fs::File::create(&beside)?;
        file.write_all(&mark.0)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)
    }
}

/// Where labels start when the file says `mark` and the clock says `now`.
fn start_above(mark: Tai64n, now: Tai64n) -> Tai64n {
    if now > mark {
        mark
    } else {
        later(mark)
    }
}

/// The label [`SLACK`] after `label`.
fn later(label: Tai64n) -> Tai64n {
    let mut bytes = label.0;
    let mut seconds = [0; 8];
    seconds.copy_from_slice(&bytes[..8]);
    let later = u64::from_be_bytes(seconds).saturating_add(SLACK);
    bytes[..8].copy_from_slice(&later.to_be_bytes());
    Tai64n(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(secs: u64) -> Tai64n {
        Tai64n::from_wall(WallTime { secs, nanos: 0 })
    }

    #[test]
    fn a_clock_behind_the_file_starts_above_all_labels_that_may_have_been_used() {
        assert_eq!(start_above(label(1000), label(2000)), label(1000));
        assert_eq!(
            start_above(label(100_000), label(5)),
            label(100_000 + SLACK)
        );
    }

    #[test]
    fn written_rarely_and_found_again() {
        let folder = std::env::temp_dir().join(format!("meshd-state-{}", std::process::id()));
        let path = folder.join("prod.tai64n");
        let mut state = State {
            path: path.clone(),
            written: None,
        };
        let on_disk = || Tai64n(fs::read(&path).unwrap().try_into().unwrap());
        state.note(label(10)).unwrap();
        assert_eq!(on_disk(), label(10));
        state.note(label(10 + SLACK - 1)).unwrap();
        assert_eq!(on_disk(), label(10), "not yet time");
        state.note(label(10 + SLACK)).unwrap();
        assert_eq!(on_disk(), label(10 + SLACK));
        state.close(label(11 + SLACK)).unwrap();
        assert_eq!(on_disk(), label(11 + SLACK));
        fs::remove_dir_all(folder).unwrap();
    }
}
