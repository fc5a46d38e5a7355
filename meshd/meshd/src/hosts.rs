//! The marked block of a mesh in the hosts file.
//!
//! Strategy: pure functions on the file's bytes put a block in, find it and take it out again so that exactly the bytes
//! from before remain; one small door at the end writes the result in place. The file is never renamed over, because
//! containers bind-mount it; bytes before the first difference are not written at all, so a crash can hurt the block
//! but not what stands above it; and what it grows by is written first, so a full disk hurts nothing. What it does not do: resolve names, or touch a line outside its block.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Begins the comment of a block's first line when the file had no newline at its end before.
const UNTERMINATED: &str = ", the line above ended without newline";

/// A block whose end is missing: it is left alone.
#[derive(Debug, PartialEq, Eq)]
pub struct BrokenBlock {
    /// The line that should follow somewhere below the block's beginning.
    pub missing: String,
}

/// The text with the block of mesh `name` holding `lines`; without lines there is no block.
pub fn put(text: &[u8], name: &str, lines: &[String]) -> Result<Vec<u8>, BrokenBlock> {
    if lines.is_empty() {
        return take_out(text, name);
    }
    let mut body: Vec<u8> = lines
        .iter()
        .flat_map(|line| [line.as_bytes(), b"\n"].concat())
        .collect();
    if let Some(block) = find(text, name)? {
        return Ok([&text[..block.body], &body, &text[block.end_line..]].concat());
    }
    let terminated = text.is_empty() || text.ends_with(b"\n");
    let newline: &[u8] = if terminated { b"" } else { b"\n" };
    let note = if terminated { "" } else { UNTERMINATED };
    body.extend_from_slice(format!("{}\n", end_line(name)).as_bytes());
    Ok([
        text,
        newline,
        format!("{}{note}\n", begin_line(name)).as_bytes(),
        &body,
    ]
    .concat())
}

/// The text without the block of mesh `name`: byte for byte what it was before [`put`].
pub fn take_out(text: &[u8], name: &str) -> Result<Vec<u8>, BrokenBlock> {
    let Some(block) = find(text, name)? else {
        return Ok(text.to_vec());
    };
    let before = &text[..block.start];
    let after = &text[block.end..];
    let before = match before.strip_suffix(b"\n") {
        Some(shorter) if block.unterminated && after.is_empty() => shorter,
        _ => before,
    };
    Ok([before, after].concat())
}

/// The lines in the block of mesh `name`; none when there is no block.
pub fn lines(text: &[u8], name: &str) -> Result<Vec<String>, BrokenBlock> {
    let Some(block) = find(text, name)? else {
        return Ok(Vec::new());
    };
    let body = String::from_utf8_lossy(&text[block.body..block.end_line]);
    Ok(body.lines().map(str::to_owned).collect())
}

/// Where a block stands, as offsets into the text.
struct Block {
    /// Of its first line.
    start: usize,
    /// Of the line below the first.
    body: usize,
    /// Of its last line.
    end_line: usize,
    /// Behind its last line.
    end: usize,
    /// Whether the text above had no newline at its end.
    unterminated: bool,
}

fn begin_line(name: &str) -> String {
    format!("# begin of mesh {name}: kept by meshd")
}

fn end_line(name: &str) -> String {
    format!("# end of mesh {name}")
}

fn find(text: &[u8], name: &str) -> Result<Option<Block>, BrokenBlock> {
    let (begin, end) = (begin_line(name), end_line(name));
    let mut found: Option<Block> = None;
    let mut offset = 0;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let next = offset + line.len();
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        match &mut found {
            None => {
                if let Some(note) = content.strip_prefix(begin.as_bytes()) {
                    let unterminated = note == UNTERMINATED.as_bytes();
                    if unterminated || note.is_empty() {
                        found = Some(Block {
                            start: offset,
                            body: next,
                            end_line: 0,
                            end: 0,
                            unterminated,
                        });
                    }
                }
            }
            Some(block) if content == end.as_bytes() => {
                block.end_line = offset;
                block.end = next;
                return Ok(found);
            }
            Some(_) => {}
        }
        offset = next;
    }
    if found.is_some() {
        Err(BrokenBlock { missing: end })
    } else {
        Ok(None)
    }
}

/// Rewrites the file at `path` by `edit`, in place and only where it differs. A missing file counts as empty and is made
/// when there is something to write. Says whether anything changed.
pub fn rewrite(
    path: &Path,
    edit: impl FnOnce(&[u8]) -> Result<Vec<u8>, BrokenBlock>,
) -> io::Result<Result<bool, BrokenBlock>> {
    let mut old = Vec::new();
    let file = OpenOptions::new().read(true).write(true).open(path);
    let mut file = match file {
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(file) = &mut file {
        file.lock()?;
        file.read_to_end(&mut old)?;
    }
    let new = match edit(&old) {
        Ok(new) => new,
        Err(broken) => return Ok(Err(broken)),
    };
    if new == old {
        return Ok(Ok(false));
    }
    let mut file = match file {
        Some(file) => file,
        None => File::create_new(path)?,
    };
    // What the file grows by comes first: that is where a full disk shows, while nothing is lost yet.
    if let Some(growth) = new.get(old.len()..) {
        file.seek(SeekFrom::End(0))?;
        if let Err(error) = file.write_all(growth).and_then(|()| file.sync_data()) {
            file.set_len(old.len() as u64)?;
            return Err(error);
        }
    }
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    file.seek(SeekFrom::Start(same as u64))?;
    file.write_all(&new[same..])?;
    file.set_len(new.len() as u64)?;
    file.sync_all()?;
    Ok(Ok(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(lines: &[&str]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn in_and_out_leaves_the_bytes_from_before() {
        for before in [
            "",
            "127.0.0.1 localhost\n",
            "127.0.0.1 localhost",
            "\n",
            "a\n\n",
            "\r\n",
            "x\u{e9}",
        ] {
            let with = put(
                before.as_bytes(),
                "prod",
                &strings(&["10.0.0.1 a", "10.0.0.2 b"]),
            )
            .unwrap();
            assert_eq!(
                lines(&with, "prod").unwrap(),
                ["10.0.0.1 a", "10.0.0.2 b"],
                "{before:?}"
            );
            assert_eq!(
                take_out(&with, "prod").unwrap(),
                before.as_bytes(),
                "{before:?}"
            );
        }
    }

    #[test]
    fn putting_again_changes_nothing_or_only_the_block() {
        let one = put(b"x\n", "prod", &strings(&["10.0.0.1 a"])).unwrap();
        assert_eq!(put(&one, "prod", &strings(&["10.0.0.1 a"])).unwrap(), one);
        let below = [one.as_slice(), b"192.0.2.1 mine\n"].concat();
        let two = put(&below, "prod", &strings(&["10.0.0.9 z"])).unwrap();
        assert_eq!(lines(&two, "prod").unwrap(), ["10.0.0.9 z"]);
        assert_eq!(put(&two, "prod", &[]).unwrap(), b"x\n192.0.2.1 mine\n");
    }

    #[test]
    fn text_added_below_keeps_its_newline() {
        let with = put(b"x", "prod", &strings(&["10.0.0.1 a"])).unwrap();
        let below = [with.as_slice(), b"y\n"].concat();
        assert_eq!(take_out(&below, "prod").unwrap(), b"x\ny\n");
    }

    #[test]
    fn meshes_do_not_mix_up_their_blocks() {
        let one = put(b"", "prod", &strings(&["10.0.0.1 a"])).unwrap();
        let two = put(&one, "prod2", &strings(&["10.0.0.2 b"])).unwrap();
        assert_eq!(lines(&two, "prod").unwrap(), ["10.0.0.1 a"]);
        assert_eq!(lines(&two, "prod2").unwrap(), ["10.0.0.2 b"]);
        assert_eq!(take_out(&two, "prod2").unwrap(), one);
    }

    #[test]
    fn a_block_without_end_is_left_alone() {
        let with = put(b"", "prod", &strings(&["10.0.0.1 a"])).unwrap();
        let cut = &with[..with.len() - 5];
        assert_eq!(
            take_out(cut, "prod").unwrap_err().missing,
            "# end of mesh prod"
        );
        assert!(put(cut, "prod", &strings(&["10.0.0.1 a"])).is_err());
    }

    #[test]
    fn rewriting_a_file_keeps_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let folder = std::env::temp_dir().join(format!("meshd-hosts-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("hosts");
        std::fs::write(&path, "127.0.0.1 localhost").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        let block = strings(&["10.0.0.1 a"]);
        assert_eq!(
            rewrite(&path, |text| put(text, "prod", &block)).unwrap(),
            Ok(true)
        );
        assert_eq!(
            rewrite(&path, |text| put(text, "prod", &block)).unwrap(),
            Ok(false)
        );
        assert_eq!(
            rewrite(&path, |text| take_out(text, "prod")).unwrap(),
            Ok(true)
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"127.0.0.1 localhost");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    /// Set for the process that has no room: the file to be rewritten.
    const NO_ROOM: &str = "MESHD_TEST_NO_ROOM";

    #[test]
    fn a_full_disk_loses_no_line() {
        if let Some(path) = std::env::var_os(NO_ROOM) {
            let block: Vec<String> = (0..99).map(|n| format!("10.0.0.{n} host-{n}")).collect();
            let outcome = rewrite(Path::new(&path), |text| put(text, "prod", &block));
            assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
            return;
        }
        let path = std::env::temp_dir().join(format!("meshd-no-room-{}", std::process::id()));
        let before = [
            &put(b"127.0.0.1 localhost\n", "prod", &strings(&["10.0.0.1 a"])).unwrap()[..],
            b"192.0.2.1 mine\n",
        ]
        .concat();
        std::fs::write(&path, &before).unwrap();
        // A limit on the size of files is a full disk that needs no root: the write fails, with the signal ignored.
        let limited = std::process::Command::new("sh")
            .args([
                "-c",
                "trap '' XFSZ; ulimit -f 1; exec \"$0\" a_full_disk_loses_no_line --test-threads=1",
            ])
            .arg(std::env::current_exe().unwrap())
            .env(NO_ROOM, &path)
            .output()
            .unwrap();
        assert!(limited.status.success(), "{limited:?}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::remove_file(&path).unwrap();
    }
}
