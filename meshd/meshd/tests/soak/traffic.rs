//! Flows that are compared: each host has a server that answers every connection with the SHA-256 of what it received, and
//! a client that sends one flow after the other at a fixed rate and compares. A flow that breaks or differs ends the client.

use std::process::{Child, Stdio};

use crate::common::Host;

const SERVER: &str = "import socket,hashlib,threading,sys
s=socket.socket(socket.AF_INET6);s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1);s.bind(('::',7000));s.listen(64)
print('ready',flush=True)
def serve(c):
    h=hashlib.sha256()
    try:
        c.settimeout(300)
        while d:=c.recv(65536): h.update(d)
        c.sendall(h.digest())
    except OSError: pass
    c.close()
while True: threading.Thread(target=serve,args=(s.accept()[0],),daemon=True).start()";

/// TARGET, RATE in bytes a second. A connection that can't be made yet is tried again: a flow begins when there is one.
const CLIENT: &str = "import socket,hashlib,os,sys,time,random
to,rate=sys.argv[1],int(sys.argv[2]);flows=total=0
while not os.path.exists('/run/stop'):
    try: s=socket.create_connection((to,7000),timeout=10)
    except OSError: time.sleep(.2);continue
    s.settimeout(200);h=hashlib.sha256();size=random.randint(rate,6*rate);at=time.monotonic()
    try:
        while size>0:
            d=os.urandom(min(size,16384));s.sendall(d);h.update(d);size-=len(d);total+=len(d)
            at=max(at,time.monotonic()-1)+len(d)/rate;time.sleep(max(0,at-time.monotonic()))
        s.shutdown(socket.SHUT_WR);answer=b''
        while d:=s.recv(64): answer+=d
    except OSError as e: print('broken by',e);sys.exit(1)
    if answer!=h.digest(): print('another hash',len(answer));sys.exit(1)
    s.close();flows+=1
print(flows,total)";

/// Starts a host's server; it ends with the host.
pub fn serve(host: &mut Host) {
    let mut command = host.command("python3", &["-c", SERVER]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    let out = child.stdout.as_mut().unwrap();
    std::io::Read::read_exact(out, &mut ready).unwrap();
    host.adopt(child);
}

/// A host's client.
pub struct Client(Child);

impl Client {
    /// Begins to send to an address.
    pub fn begin(host: &Host, to: &str, rate: u32) -> Self {
        let mut command = host.command("python3", &["-c", CLIENT, to, &rate.to_string()]);
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Whether it has given up.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Lets it finish its flow after `/run/stop` was made: flows and bytes, or what was wrong.
    pub fn end(self) -> Result<(u64, u64), String> {
        let output = self.0.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let counts = said
            .split_once(' ')
            .and_then(|(flows, bytes)| Some((flows.parse().ok()?, bytes.parse().ok()?)));
        counts.ok_or(said)
    }
}
