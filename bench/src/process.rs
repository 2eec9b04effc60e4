//! The bench's processes, and their usage of processor and memory.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::stack::{Stack, Target};

/// What a process has used.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Processor time of all its threads since its start, including system calls.
    pub(crate) cpu: Duration,
    /// Its own resident memory, without mapped files and the kernel's.
    pub(crate) kib: u64,
}

impl Usage {
    pub(crate) fn now() -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(Self { cpu: cpu(), kib: number.context("no RssAnon")?.parse()? })
    }
}

/// Processor time of this process.
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// The listening process: prints its address, and its usage for each line of input.
pub(crate) fn serve(stack: &'static dyn Stack) -> Result<()> {
    stack.run(Box::pin(async move {
        let target = stack.serve().await?;
        tokio::task::spawn_blocking(move || {
            let mut out = std::io::stdout();
            writeln!(out, "{}", serde_json::to_string(&target)?)?;
            out.flush()?;
            // Until the other process is gone.
            for line in std::io::stdin().lines() {
                line?;
                writeln!(out, "{}", serde_json::to_string(&Usage::now()?)?)?;
                out.flush()?;
            }
            std::process::exit(0)
        })
        .await?
    }))
}

/// The dialing process's handle to a listening process.
pub(crate) struct Listener {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) target: Target,
}

impl Listener {
    pub(crate) fn start(stack: &dyn Stack) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", stack.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().context("no stdin")?;
        let mut output = BufReader::new(process.stdout.take().context("no stdout")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let target = serde_json::from_str(&line).context("the listener did not start")?;
        Ok(Self { process, input, output, target })
    }

    pub(crate) fn usage(&mut self) -> Result<Usage> {
        writeln!(self.input)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the listener has ended");
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
