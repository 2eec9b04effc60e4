//! Recordings of runs: all inputs of a node with their times, and the hash of its outputs
//! (specification section 13).
//!
//! A recording begins with the configuration, the seed and the names of the build and the rules; it
//! never contains a key. It ends with the hash of all outputs, which a replay must reproduce.
//!
//! # Not guaranteed
//!
//! That a recording of one build replays in another: the hash is of the outputs, and a change of
//! behaviour changes it. A recording contains everything that the node received, which may be
//! private.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::config::{Config, ConfigError};
use crate::io::{Command, Input, Output};
use crate::rules::Rules;
use crate::{Node, Time};

/// The first bytes of a recording: a name and a version.
const MAGIC: &[u8; 8] = b"tidegat5";
/// The largest record in bytes: a block in a command is the largest.
const MAX_RECORD: u32 = 64 << 20;

/// The header of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// Its seed.
    pub seed: [u8; 32],
    /// The build that recorded it.
    pub build: String,
    /// [`Rules::id`] of the application.
    pub rules: String,
    /// When the node was started.
    pub at: Time,
}

/// One call of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Record {
    Input(Time, Input),
    Command(Time, Command),
    Timeout(Time),
    /// The end of the run, with the hash of its outputs.
    End([u8; 32]),
}

/// A hash over outputs, in order.
#[derive(Clone, Debug, Default)]
pub struct TraceHash {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl TraceHash {
    /// Adds an output.
    pub fn output(&mut self, output: &Output) {
        if let Output::Frame { connection, channel, frame } = output {
            // Most outputs are frames, whose bytes need not be copied.
            self.hasher.update(b"frame");
            self.number(connection.0);
            self.number(u64::from(*channel));
            self.number(frame.len() as u64);
            for part in frame.parts() {
                self.hasher.update(&part);
            }
            return;
        }
        self.buffer.clear();
        let encoded = postcard::to_io(output, &mut self.buffer);
        encoded.expect("plain data has a form, and memory takes it");
        self.hasher.update(&self.buffer);
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.hasher.update(&number.to_be_bytes());
    }

    /// The hash of everything added.
    pub fn finish(&self) -> [u8; 32] {
        self.hasher.finalize().into()
    }
}

/// Writes a recording.
pub struct Recorder {
    file: Box<dyn Write + Send>,
    trace: TraceHash,
    buffer: Vec<u8>,
}

impl Recorder {
    /// Starts a recording.
    pub fn new(mut file: Box<dyn Write + Send>, start: &Start) -> io::Result<Self> {
        file.write_all(MAGIC)?;
        let mut recorder = Self { file, trace: TraceHash::default(), buffer: Vec::new() };
        recorder.write(start)?;
        Ok(recorder)
    }

    /// Records an event of the network.
    pub fn input(&mut self, now: Time, input: &Input) -> io::Result<()> {
        self.write(&Record::Input(now, input.clone()))
    }

    /// Records a command of the application.
    pub fn command(&mut self, now: Time, command: &Command) -> io::Result<()> {
        self.write(&Record::Command(now, command.clone()))
    }

    /// Records that time has passed.
    pub fn timeout(&mut self, now: Time) -> io::Result<()> {
        self.write(&Record::Timeout(now))
    }

    /// Adds an output of the node to the hash.
    pub fn output(&mut self, output: &Output) {
        self.trace.output(output);
    }

    /// Ends the recording; returns the hash that a replay must reproduce.
    pub fn finish(mut self) -> io::Result<[u8; 32]> {
        let hash = self.trace.finish();
        self.write(&Record::End(hash))?;
        self.file.flush()?;
        Ok(hash)
    }

    fn write<T: Serialize>(&mut self, record: &T) -> io::Result<()> {
        self.buffer.clear();
        postcard::to_io(record, &mut self.buffer).map_err(io::Error::other)?;
        if self.buffer.len() > MAX_RECORD as usize {
            // It could not be read back.
            let what = format!("a record of {} bytes, over {MAX_RECORD}", self.buffer.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        self.file.write_all(&(self.buffer.len() as u32).to_be_bytes())?;
        self.file.write_all(&self.buffer)
    }
}

/// The result of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The header of the recording.
    pub start: Start,
    /// Inputs, commands and timeouts that were replayed.
    pub steps: u64,
    /// The time of the last one.
    pub end: Time,
    /// The hash of the replayed outputs.
    pub hash: [u8; 32],
    /// The recorded hash; `None` if the recording is incomplete.
    pub recorded: Option<[u8; 32]>,
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It could not be read.
    #[error("cannot read the recording: {0}")]
    Io(#[from] io::Error),
    /// It is not a recording, or one of another version.
    #[error("this is no recording of a Tidegate node, or one of another version")]
    NotARecording,
    /// A record is damaged.
    #[error("step {step} of the recording is damaged")]
    Damaged {
        /// The number of the step.
        step: u64,
    },
    /// It was made with other rules.
    #[error("it was recorded with the rules {recorded:?}; these are {own:?}")]
    OtherRules {
        /// The recording's.
        recorded: String,
        /// The rules given for the replay.
        own: String,
    },
    /// Its configuration is not valid in this version.
    #[error("its configuration: {0}")]
    Config(#[from] ConfigError),
}

/// Replays a recording.
pub fn replay(mut file: impl Read, rules: Box<dyn Rules>) -> Result<Replay, ReplayError> {
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(|_| ReplayError::NotARecording)?;
    // R13.1
    if magic != *MAGIC {
        return Err(ReplayError::NotARecording);
    }
    let start: Start = read(&mut file, 0)?.ok_or(ReplayError::NotARecording)?;
    // R13.2
    if start.rules != rules.id() {
        let own = rules.id().to_owned();
        return Err(ReplayError::OtherRules { recorded: start.rules, own });
    }
    let mut node = Node::new(start.config.clone(), rules, start.seed, start.at)?;
    let mut trace = TraceHash::default();
    let mut replay = Replay { end: start.at, start, steps: 0, hash: [0; 32], recorded: None };
    loop {
        while let Some(output) = node.poll_output() {
            trace.output(&output);
        }
        let Some(record) = read(&mut file, replay.steps + 1)? else { break };
        replay.steps += 1;
        let at = match record {
            Record::Input(at, input) => {
                node.handle_input(at, input);
                at
            }
            Record::Command(at, command) => {
                node.handle_command(at, command);
                at
            }
            Record::Timeout(at) => {
                node.handle_timeout(at);
                at
            }
            Record::End(hash) => {
                replay.recorded = Some(hash);
                replay.steps -= 1;
                break;
            }
        };
        replay.end = at;
    }
    // R13.5
    replay.hash = trace.finish();
    Ok(replay)
}

/// The next record; `None` at the end of the file.
fn read<T: for<'de> Deserialize<'de>>(
    file: &mut impl Read,
    step: u64,
) -> Result<Option<T>, ReplayError> {
    let damaged = ReplayError::Damaged { step };
    let mut length = [0; 4];
    match file.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_be_bytes(length);
    // R13.3
    if length > MAX_RECORD {
        return Err(damaged);
    }
    let mut bytes = Vec::new();
    file.take(u64::from(length)).read_to_end(&mut bytes)?;
    // R13.4
    if bytes.len() < length as usize {
        // Incomplete, since the recording process died: the records before it count.
        return Ok(None);
    }
    postcard::from_bytes(&bytes).map(Some).map_err(|_| damaged)
}
