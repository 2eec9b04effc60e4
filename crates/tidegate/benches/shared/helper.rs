//! Helper processes: the bench runs itself again, in a role.
//!
//! Processes talk in lines. Their memory is read from `/proc`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Precedes the role in the arguments.
const ROLE: &str = "--role";
/// The scheduling priority of processes that only attack: the lowest.
const NICE: &str = "19";
/// The timeout of anything.
const GUARD: Duration = Duration::from_secs(120);

/// The role of this process with its arguments, if it has one.
pub(crate) fn role() -> Option<(String, Vec<String>)> {
    let mut arguments = std::env::args().skip_while(|argument| argument != ROLE).skip(1);
    Some((arguments.next()?, arguments.collect()))
}

/// Whether the user has given a flag.
pub(crate) fn flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

/// In a helper process: waits until it is told to end.
pub(crate) async fn until_ended() {
    let wait = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    // An error counts as the end too.
    let _ = tokio::task::spawn_blocking(wait).await;
}

/// The share of the processor when others want it too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    Same,
    /// None, while any other process has work.
    Low,
}

/// This program in another process.
pub(crate) struct Helper {
    child: Child,
    /// Closing it ends the process.
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

impl Helper {
    pub(crate) fn start(role: &str, with: &[String], priority: Priority) -> Self {
        let own = std::env::current_exe().expect("this program");
        let mut command = match priority {
            Priority::Same => Command::new(own),
            Priority::Low => {
                let mut nice = Command::new("nice");
                nice.args(["-n", NICE]).arg(own);
                nice
            }
        };
        command.args([ROLE, role]).args(with);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("this program runs again");
        let (said, lines) = channel();
        let output = child.stdout.take().expect("it is a pipe");
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The reader may be gone.
                let _ = said.send(line);
            }
        });
        let mut output = child.stderr.take().expect("it is a pipe");
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = output.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let input = child.stdin.take();
        Self { child, input, lines, errors: Some(errors) }
    }

    /// The next line of its output.
    pub(crate) fn hear(&self) -> String {
        self.lines.recv_timeout(GUARD).expect("it says something in time")
    }

    pub(crate) fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it has not been ended");
        writeln!(input, "{line}").expect("it listens");
    }

    /// A question and its answer.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// Ends it; returns its exit status and its error output.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        drop(self.input.take());
        let status = self.child.wait().expect("it was started here");
        let errors = self.errors.take().expect("it is joined once");
        (status, errors.join().expect("reading does not panic"))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // If it has not ended yet. A failing bench leaves no processes behind.
        if self.input.take().is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The resident memory of a process.
pub(crate) fn resident(process: u32) -> u64 {
    of_status(process, "VmRSS:")
}

/// The peak of its resident memory.
pub(crate) fn peak(process: u32) -> u64 {
    of_status(process, "VmHWM:")
}

fn of_status(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The processor time of a process: clock ticks, of which Linux counts 100 a second.
pub(crate) fn processor(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name is in parentheses and may contain anything; user and system time are the 14th and
    // 15th field of all.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Datagrams that the kernel dropped because the socket of a port was full.
pub(crate) fn dropped(port: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let local = format!(":{port:04X}");
    let socket = table.lines().find(|line| {
        line.split_whitespace().nth(1).is_some_and(|address| address.ends_with(&local))
    });
    let count = socket.and_then(|line| line.split_whitespace().last()?.parse().ok());
    count.unwrap_or(0)
}
