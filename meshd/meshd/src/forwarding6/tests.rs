//! The switches are files of a folder here; what they do to packets and routes is the end-to-end test's part.
use super::*;

/// A folder with the settings of some links, and the record beside it; gone when dropped.
struct Settings(PathBuf);

impl Settings {
    fn new(name: &str, force: bool, links: &[&str]) -> Self {
        let top = std::env::temp_dir().join(format!("meshd-{name}-{}", std::process::id()));
        let settings = Self(top);
        for link in ["all", "default"].iter().chain(links) {
            fs::create_dir_all(settings.0.join("conf").join(link)).unwrap();
            settings.set(&format!("{link}/forwarding"), "0");
            settings.set(&format!("{link}/accept_ra"), "1");
            if force {
                settings.set(&format!("{link}/force_forwarding"), "0");
            }
        }
        settings
    }

    fn set(&self, of: &str, value: &str) {
        fs::write(self.0.join("conf").join(of), format!("{value}\n")).unwrap();
    }

    fn all(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for folder in fs::read_dir(self.0.join("conf")).unwrap() {
            for file in fs::read_dir(folder.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                // What we write has no line end, which the kernel adds.
                let value = fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(&self.0).unwrap().display().to_string();
                all.insert(name, value.trim().get(..1).unwrap().to_owned());
            }
        }
        all
    }

    fn record(&self) -> PathBuf {
        self.0.join("state").join("prod.forward6")
    }

    fn open(&self) -> Forwarding6 {
        Forwarding6::open(&self.0.join("conf"), self.record())
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.into(),
        mtu: 1500,
        up: true,
        queue_len: 0,
        kind: String::new(),
        is_tun: false,
        forwarding_v4: None,
    }
}

#[test]
fn links_alone_are_turned_where_the_kernel_can() {
    let settings = Settings::new("force6", true, &["eth0", "eth1", "prod"]);
    settings.set("eth1/force_forwarding", "1");
    let before = settings.all();
    let links = [link(2, "eth0"), link(3, "eth1"), link(9, "prod")];
    let mut forwarding = settings.open();
    assert!(!forwarding.works(&links) && forwarding.could(&links).is_ok());
    let ours = Opened6::Links(vec!["eth0".into(), "prod".into()]);
    assert_eq!(forwarding.opens(&links), ours);
    forwarding.set(&links).unwrap();
    assert!(forwarding.works(&links));
    assert_eq!(settings.open().opens(&links), ours, "after a crash too");
    assert_eq!(settings.all()["conf/all/forwarding"], "0");
    // Another uplink, renamed later; the old one is as it was.
    let mut links = [link(3, "eth1"), link(9, "prod")];
    forwarding.set(&links).unwrap();
    assert_eq!(settings.all()["conf/eth0/force_forwarding"], "0");
    fs::rename(settings.0.join("conf/prod"), settings.0.join("conf/else")).unwrap();
    links[1].name = "else".into();
    forwarding.renamed(&links);
    put_back(&settings.0.join("conf"), settings.record()).unwrap();
    fs::rename(settings.0.join("conf/else"), settings.0.join("conf/prod")).unwrap();
    assert_eq!(settings.all(), before);
    assert!(!settings.record().exists());
}

#[test]
fn a_whole_host_that_forwards_is_a_host_all_the_same() {
    let settings = Settings::new("all6", false, &["eth0", "eth1", "prod"]);
    settings.set("eth1/accept_ra", "2");
    let before = settings.all();
    let links = [link(2, "eth0"), link(9, "prod")];
    let mut forwarding = settings.open();
    assert_eq!(forwarding.opens(&links), Opened6::All);
    forwarding.set(&links).unwrap();
    let mut now = before.clone();
    now.insert("conf/all/forwarding".into(), "1".into());
    assert_eq!(settings.all(), now, "nothing else");
    assert_eq!(settings.open().opens(&links), Opened6::All, "after a crash");
    drop(forwarding);
    put_back(&settings.0.join("conf"), settings.record()).unwrap();
    assert_eq!(settings.all(), before);
}

#[test]
fn a_change_that_a_crash_has_cut_is_brought_to_its_end() {
    let settings = Settings::new("cut6", false, &["eth0"]);
    let before = settings.all();
    let text = "\nall 0\nback eth0/forwarding 0\nback eth0/accept_ra 1\nback gone/forwarding 0\n";
    fs::create_dir_all(settings.record().parent().unwrap()).unwrap();
    fs::write(settings.record(), here_and_now().unwrap() + text).unwrap();
    for (of, value) in [
        ("all/forwarding", "1"),
        ("eth0/forwarding", "1"),
        ("eth0/accept_ra", "2"),
    ] {
        settings.set(of, value);
    }
    let mut forwarding = settings.open();
    let now = settings.all();
    assert_eq!(now["conf/eth0/accept_ra"], "1");
    assert_eq!(now["conf/eth0/forwarding"], "0");
    assert_eq!(now["conf/all/forwarding"], "1");
    forwarding.set(&[]).unwrap();
    assert_eq!(settings.all(), before);
    // A record of another boot means nothing.
    fs::write(settings.record(), format!("another-boot net:[1]{text}")).unwrap();
    settings.set("all/forwarding", "1");
    settings.open().set(&[]).unwrap();
    assert_eq!(settings.all()["conf/all/forwarding"], "1");
}

#[test]
fn what_others_turn_on_is_theirs() {
    let settings = Settings::new("others6", false, &["eth0"]);
    let links = [link(2, "eth0")];
    // Before us: nothing is done, nothing is put back.
    settings.set("all/forwarding", "1");
    let mut forwarding = settings.open();
    assert_eq!(forwarding.opens(&links), Opened6::default());
    forwarding.set(&links).unwrap();
    forwarding.set(&[]).unwrap();
    assert_eq!(settings.all()["conf/all/forwarding"], "1");
    // After us: the default for new links goes along with the kernel's switch.
    settings.set("all/forwarding", "0");
    forwarding.set(&links).unwrap();
    settings.set("default/forwarding", "1");
    forwarding.set(&[]).unwrap();
    assert_eq!(settings.all()["conf/all/forwarding"], "1");
    assert!(!settings.record().exists());
}

#[test]
fn a_switch_that_cannot_be_turned_is_told_and_changes_nothing() {
    let settings = Settings::new("stuck6", false, &["eth0"]);
    fs::remove_file(settings.0.join("conf/all/forwarding")).unwrap();
    fs::create_dir(settings.0.join("conf/all/forwarding")).unwrap();
    let links = [link(2, "eth0")];
    let mut forwarding = settings.open();
    assert!(forwarding.could(&links).is_err());
    let why = forwarding.set(&links).unwrap_err().to_string();
    assert!(why.contains("all/forwarding"), "{why}");
    assert_eq!(
        fs::read_to_string(settings.0.join("conf/eth0/accept_ra"))
            .unwrap()
            .trim(),
        "1"
    );
    assert!(!settings.record().exists());
}
