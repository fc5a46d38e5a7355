use std::io::Read;
use std::time::Duration;

use super::*;

const TOKEN: u64 = 7;
const END: &[u8] = b"\n\n";

/// A conversation as it is served, and its other end, which waits for nothing.
struct Served {
    conversation: Conversation,
    client: UnixStream,
    poller: Poller,
    /// The length of each answer.
    answer: usize,
    /// Requests served.
    count: u8,
}

impl Served {
    fn new(answer: usize) -> Self {
        let (client, server) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        let conversation = Conversation::new(server).unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&conversation, TOKEN).unwrap();
        Self {
            conversation,
            client,
            poller,
            answer,
            count: 0,
        }
    }

    fn is_ready(&self) -> bool {
        let mut ready = Vec::new();
        self.poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        !ready.is_empty()
    }

    /// A turn; whether the conversation goes on.
    fn turn(&mut self) -> bool {
        self.conversation.receive(1 << 10).unwrap();
        while self.conversation.next(END).is_some() {
            self.count = self.count.wrapping_add(1);
            self.conversation.answer(&vec![self.count; self.answer]);
        }
        self.conversation.flush(&self.poller, TOKEN).unwrap()
    }

    /// Turns until nothing is ready; more of them than that can be are a spin.
    fn rest(&mut self) {
        for _ in 0..10_000 {
            if !self.is_ready() {
                return;
            }
            assert!(self.turn());
        }
        panic!("it spins");
    }
}

#[test]
fn who_asks_and_never_reads_is_neither_read_from_nor_served() {
    let mut served = Served::new(1000);
    let mut asked = 0;
    // As long as it is read from, more can be written to it.
    while let Ok(n) = served.client.write(&b"get=1\n\n".repeat(1000)) {
        asked += n;
        assert!(asked < 16 << 20, "all is taken in");
        served.rest();
    }
    let most = FULL + 2 * served.answer;
    assert!(served.conversation.output.len() <= 2 * most);
    // It reads after all: nothing is lost, nothing overtakes.
    let (mut got, mut expected) = (vec![0; 1 << 16], 1u8);
    let mut count = 0;
    while let Ok(n) = served.client.read(&mut got) {
        for byte in &got[..n] {
            assert_eq!(*byte, expected);
            count += 1;
            if count % served.answer == 0 {
                expected = expected.wrapping_add(1);
            }
        }
        served.rest();
    }
    assert_eq!(count, asked / 7 * served.answer);
    assert!(served.conversation.output.is_empty());
}

#[test]
fn who_reads_slowly_for_ever_costs_no_more_than_who_never_reads() {
    let mut served = Served::new(1000);
    let mut some = [0; 10_000];
    for _ in 0..2000 {
        let _ = served.client.write(&b"get=1\n\n".repeat(100));
        let _ = served.client.read(&mut some);
        served.rest();
        let (output, input) = (&served.conversation.output, &served.conversation.input);
        assert!(
            output.capacity() <= 4 * FULL,
            "output {}",
            output.capacity()
        );
        assert!(
            input.capacity() <= 2 * TURN_BYTES,
            "input {}",
            input.capacity()
        );
    }
}

#[test]
fn who_says_no_more_and_never_reads_wakes_nobody() {
    let mut served = Served::new(FULL);
    served.client.write_all(b"get=1\n\nget=1\n\n").unwrap();
    served.client.shutdown(std::net::Shutdown::Write).unwrap();
    served.rest();
    let mut got = 0;
    let mut some = vec![0; 1 << 16];
    loop {
        match served.client.read(&mut some) {
            Ok(n) => got += n,
            Err(_) if served.is_ready() => {
                if !served.turn() {
                    break;
                }
            }
            Err(error) => panic!("{error} after {got}"),
        }
    }
    // What was written last may not have been read yet.
    while let Ok(n) = served.client.read(&mut some) {
        got += n;
    }
    assert_eq!(got, 2 * FULL);
}

#[test]
fn who_hangs_up_with_answers_waiting_is_forgotten() {
    let mut served = Served::new(FULL);
    served.client.write_all(b"get=1\n\nget=1\n\n").unwrap();
    served.rest();
    let (client, _) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut served.client, client));
    assert!(served.is_ready());
    let gone = served.conversation.flush(&served.poller, TOKEN);
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn others_have_their_turn_before_all_is_served() {
    let mut served = Served::new(9);
    served.client.write_all(&b"set=1\n\n".repeat(200)).unwrap();
    let mut turns = Vec::new();
    while served.is_ready() {
        let before = served.count;
        assert!(served.turn());
        turns.push(served.count - before);
    }
    assert_eq!(turns, [64, 64, 64, 8]);
}

#[test]
fn requests_are_cut_at_their_ends_wherever_the_bytes_were() {
    let requests: [&[u8]; 4] = [b"set=1\na=1\n\n", b"\n\n", b"get=1\n\n", b"x\n\n"];
    let bytes = requests.concat();
    for step in 1..=bytes.len() {
        let mut served = Served::new(1);
        let mut got: Vec<Vec<u8>> = Vec::new();
        for chunk in bytes.chunks(step) {
            served.client.write_all(chunk).unwrap();
            served.conversation.receive(1 << 10).unwrap();
            while let Some(request) = served.conversation.next(END) {
                got.push(request.to_vec());
            }
        }
        assert_eq!(got, requests, "{step} bytes at a time");
    }
}
