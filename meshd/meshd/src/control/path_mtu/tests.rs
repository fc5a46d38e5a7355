//! Paths that lose what is too large, change, lose at random, or are silent, on a virtual clock.

use super::*;

const KEY: PublicKey = PublicKey([7; 32]);

/// A path that takes packets of up to `takes` bytes and loses every `loses`th of the others too.
struct Path {
    takes: u16,
    loses: u32,
    rtt: Duration,
}

impl Path {
    fn taking(takes: u16) -> Self {
        Self {
            takes,
            loses: u32::MAX,
            rtt: Duration::from_millis(40),
        }
    }

    /// Carries a look to its end: what was found, how long it took, and how many echoes it needed.
    fn look(
        &self,
        paths: &mut Paths,
        start: Time,
        top: u16,
        limit: Option<u16>,
    ) -> (Finding, Duration, usize) {
        let to = IpAddr::from([10, 0, 0, 2]);
        paths.asked(start, KEY, to, top, limit);
        let (mut echoes, mut answers): (usize, BTreeMap<(Time, u16), ()>) = (0, BTreeMap::new());
        loop {
            let answer = answers.keys().next().copied();
            let next = paths.next_timeout().expect("it ends with a finding");
            if let Some((at, sequence)) = answer.filter(|(at, _)| *at <= next) {
                answers.remove(&(at, sequence));
                if let Some(finding) = paths.answered(at, to, sequence) {
                    return (finding, at.since(start), echoes);
                }
                continue;
            }
            let (sent, findings) = paths.due(next);
            for echo in sent {
                echoes += 1;
                if echo.len <= self.takes && !(echoes as u32).is_multiple_of(self.loses) {
                    answers.insert((next.after(self.rtt), echo.sequence), ());
                }
            }
            if let Some(finding) = findings.first() {
                return (*finding, next.since(start), echoes);
            }
        }
    }
}

fn s(n: u64) -> Time {
    Time(1).after(Duration::from_secs(n))
}

#[test]
fn a_path_that_takes_all_costs_one_echo() {
    let mut paths = Paths::default();
    let (found, took, echoes) = Path::taking(9000).look(&mut paths, s(0), 1420, None);
    assert_eq!((found.limit, echoes), (None, 1));
    assert_eq!(took, Duration::from_millis(40));
    assert_eq!(paths.next_timeout(), None, "nothing is left to do");
}

#[test]
fn every_narrow_path_is_found_to_the_grain() {
    for top in [1300, 1420, 8920, 65455] {
        for takes in (1280..top).step_by(97) {
            let (found, took, _) = Path::taking(takes).look(&mut Paths::default(), s(0), top, None);
            let limit = found.limit.unwrap();
            assert!(
                limit <= takes && takes - limit <= 16,
                "{takes} of {top}: {limit}"
            );
            assert!(took < Duration::from_secs(8), "{takes} of {top}: {took:?}");
        }
    }
    let (found, took, _) = Path::taking(1339).look(&mut Paths::default(), s(0), 1420, None);
    assert_eq!(found.limit, Some(1328));
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn below_the_floor_there_is_no_limit() {
    let (found, ..) = Path::taking(600).look(&mut Paths::default(), s(0), 1420, None);
    assert_eq!(found.limit, Some(FLOOR));
    let mut paths = Paths::default();
    paths.asked(s(0), KEY, IpAddr::from([10, 0, 0, 2]), FLOOR, None);
    assert_eq!(
        paths.next_timeout(),
        None,
        "a link that takes no more has nothing to ask"
    );
}

#[test]
fn of_a_silent_peer_nothing_is_concluded() {
    for limit in [None, Some(1296)] {
        let (found, ..) = Path::taking(0).look(&mut Paths::default(), s(0), 1420, limit);
        assert_eq!(found.limit, limit);
        assert!(found.again >= s(10));
    }
}

#[test]
fn loss_alone_is_no_narrow_path() {
    for loses in 2..9 {
        let path = Path {
            loses,
            ..Path::taking(9000)
        };
        let mut paths = Paths::default();
        for turn in 0..20 {
            let (found, ..) = path.look(&mut paths, s(turn * 10), 1420, None);
            assert_eq!(found.limit, None, "every {loses}th is lost");
        }
    }
}

#[test]
fn a_path_that_gets_better_is_used_again_and_one_that_gets_worse_is_noticed() {
    let mut paths = Paths::default();
    let (found, ..) = Path::taking(1350).look(&mut paths, s(0), 1420, None);
    assert_eq!(found.limit, Some(1344));
    let (found, _, echoes) = Path::taking(9000).look(&mut paths, s(7), 1420, found.limit);
    assert_eq!((found.limit, echoes), (Some(1344), 1), "it is soon yet");
    let (found, ..) = Path::taking(1310).look(&mut paths, s(12), 1420, found.limit);
    assert_eq!(found.limit, Some(1296), "it got worse");
    let (found, ..) = Path::taking(1405).look(&mut paths, s(60), 1420, found.limit);
    assert_eq!(found.limit, Some(1392), "a little better");
    let (found, ..) = Path::taking(9000).look(&mut paths, s(120), 1420, found.limit);
    assert_eq!(found.limit, None);
}
