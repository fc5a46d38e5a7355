//! A numbered flow of datagrams between two hosts, counted at its end: what was sent and didn't arrive was lost.

use std::process::{Child, Command, Stdio};

use super::Host;

const PORT: &str = "7100";
/// ip(7), IP_MTU_DISCOVER.
const IP_PMTUDISC_DONT: u32 = 0;
const IP_PMTUDISC_WANT: u32 = 1;

/// Sends PER_SECOND numbered datagrams a second from SOURCE to TARGET until its stdin ends, then says how many.
const SENDER: &str = "import socket,struct,sys,time,select
f=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s=socket.socket(f,socket.SOCK_DGRAM)
if f==socket.AF_INET: s.setsockopt(socket.IPPROTO_IP,10,int(sys.argv[5]))
gap=1/float(sys.argv[3]);n=0;at=time.monotonic()
while True:
    try: s.sendto(struct.pack('!I',n)+b'x'*int(sys.argv[4]),(sys.argv[1],int(sys.argv[2])))
    except OSError as e: print('lost:',n,e,file=sys.stderr)
    n+=1;at+=gap
    if select.select([0],[],[],max(0,at-time.monotonic()))[0]: break
print(n)";

/// Receives until nothing has come for two seconds after its stdin ended; says how many different ones came, and the longest
/// silence in milliseconds.
const RECEIVER: &str = "import socket,struct,sys,select,time
f=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s=socket.socket(f,socket.SOCK_DGRAM);s.setsockopt(socket.SOL_SOCKET,33,8<<20);s.bind((sys.argv[1],int(sys.argv[2])))
print('ready',flush=True)
seen=set();last=None;longest=0;ending=False
while True:
    r=select.select([s]+([] if ending else [0]),[],[],2 if ending else None)[0]
    if 0 in r: ending=True
    elif s in r:
        n,=struct.unpack('!I',s.recv(65535)[:4]);now=time.monotonic()
        if last: longest=max(longest,now-last)
        last=now;seen.add(n)
    else: break
print(len(seen),int(longest*1000))";

/// See the file's head.
pub struct Flow {
    sender: Child,
    receiver: Child,
}

/// What became of a flow.
#[derive(Debug)]
pub struct Counts {
    pub sent: u64,
    pub received: u64,
    pub longest_silence_ms: u64,
}

impl Flow {
    /// Begins to send from one host to an address of the other: IPv4 with the DF bit, as is usual.
    pub fn begin(from: &Host, to: &Host, address: &str, per_second: u32, len: u32) -> Self {
        Self::begin_with(from, to, address, [per_second, len, IP_PMTUDISC_WANT])
    }

    /// The same without the DF bit.
    pub fn begin_without_df(
        from: &Host,
        to: &Host,
        address: &str,
        per_second: u32,
        len: u32,
    ) -> Self {
        Self::begin_with(from, to, address, [per_second, len, IP_PMTUDISC_DONT])
    }

    fn begin_with(from: &Host, to: &Host, address: &str, numbers: [u32; 3]) -> Self {
        let python = |host: &Host, script: &str, more: &[&str]| {
            let mut args = vec!["-c", script, address, PORT];
            args.extend(more);
            let mut command: Command = host.command("python3", &args);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut receiver = python(to, RECEIVER, &[]);
        assert_eq!(line(&mut receiver), "ready");
        let numbers = numbers.map(|number| number.to_string());
        let sender = python(from, SENDER, &numbers.each_ref().map(String::as_str));
        Self { sender, receiver }
    }

    /// Ends it, and counts.
    pub fn end(mut self) -> Counts {
        drop(self.sender.stdin.take());
        let sent = line(&mut self.sender).parse().unwrap();
        drop(self.receiver.stdin.take());
        let text = line(&mut self.receiver);
        let (received, silence) = text.split_once(' ').unwrap();
        Counts {
            sent,
            received: received.parse().unwrap(),
            longest_silence_ms: silence.parse().unwrap(),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        for child in [&mut self.sender, &mut self.receiver] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends bytes that can't be guessed over TCP and compares what arrives.
pub fn transfer(from: &Host, to: &Host, address: &str, mebibytes: u32) {
    let receiver = "import socket,sys,hashlib\nf=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\ns=socket.socket(f)\n\
        s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\ns.bind((sys.argv[1],7000))\ns.listen()\nopen('/run/listens','w').close()\nc,_=s.accept()\n\
        h=hashlib.sha256()\nwhile d:=c.recv(1<<20): h.update(d)\nprint(h.hexdigest())";
    let sender = "import socket,sys,hashlib,os\nf=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\ns=socket.socket(f)\n\
        s.settimeout(60)\ns.connect((sys.argv[1],7000))\nh=hashlib.sha256()\nfor _ in range(int(sys.argv[2])):\n d=os.urandom(1<<20)\n h.update(d)\n s.sendall(d)\n\
        s.shutdown(socket.SHUT_WR)\nprint(h.hexdigest())";
    to.sh("rm -f /run/listens");
    let mut command = to.command("timeout", &["120", "python3", "-c", receiver, address]);
    let receiving = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    to.until("the receiver listens", |host| {
        host.sh("ls /run").contains("listens")
    });
    let output = from
        .command(
            "timeout",
            &[
                "120",
                "python3",
                "-c",
                sender,
                address,
                &mebibytes.to_string(),
            ],
        )
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let received = receiving.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&received.stdout),
        String::from_utf8_lossy(&output.stdout)
    );
}

/// A line of a child's output, byte by byte so that nothing behind it is taken.
fn line(child: &mut Child) -> String {
    use std::io::Read;
    let (mut text, mut byte) = (Vec::new(), [0]);
    let out = child.stdout.as_mut().unwrap();
    while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}
