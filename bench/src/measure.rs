//! Measures one stack in one round.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::process::{self, Listener};
use crate::stack::{Link, Scope, Stack, Target};
use crate::{proxy, stats};

/// How much to measure in a round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) dials: u64,
    pub(crate) far_dials: u64,
    pub(crate) asks: u64,
    pub(crate) bulk_mib: u64,
    pub(crate) idle: u64,
}

impl Plan {
    pub(crate) const FULL: Self =
        Self { dials: 100, far_dials: 10, asks: 5000, bulk_mib: 512, idle: 300 };
    pub(crate) const QUICK: Self =
        Self { dials: 30, far_dials: 4, asks: 1000, bulk_mib: 64, idle: 100 };
}

/// The results of a round; those that a stack is not measured in are missing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Dial to the answer to the first message, median and 95th percentile.
    pub(crate) dial_ms: Option<f64>,
    pub(crate) dial_p95_ms: Option<f64>,
    /// Processor time of both processes to connect and disconnect.
    pub(crate) dial_cpu_ms: Option<f64>,
    /// The same dial with [`DELAY`] in each direction; its median.
    pub(crate) far_dial_ms: Option<f64>,
    pub(crate) ask_us: Option<f64>,
    pub(crate) ask_p99_us: Option<f64>,
    pub(crate) bulk_mb_s: Option<f64>,
    pub(crate) bulk_cpu_s_gib: Option<f64>,
    /// Memory of the accepting process per connection.
    pub(crate) idle_kib: Option<f64>,
}

/// The delay of packets in one direction on the slow path.
pub(crate) const DELAY: Duration = Duration::from_millis(25);
/// Connections before memory or time is measured: code and arenas are in place then.
const WARM_UP: u64 = 10;
/// Connections that requests and bulk transfers are measured on in turn: the speed of one depends
/// on where its tasks and threads happen to run, and stays so.
const LINKS: u64 = 4;
/// Bytes of a request's body, and of its answer.
const ASK: u32 = 1024;
/// How long a process may settle before its memory is measured.
const SETTLE: Duration = Duration::from_millis(1500);
/// The pause between two dials, so that the earlier one can end.
const PAUSE: Duration = Duration::from_millis(3);

/// Unused numbers of dialers.
type Numbers = std::ops::RangeFrom<u64>;

async fn first(
    stack: &'static dyn Stack,
    numbers: &mut Numbers,
    target: &Target,
) -> Result<(Box<dyn Link>, Duration, Duration)> {
    let number = numbers.next().context("no number")?;
    let dialer = stack.dialer(number, target.clone()).await?;
    let (cpu, since) = (process::cpu(), Instant::now());
    let link = tokio::time::timeout(Duration::from_secs(20), dialer.first())
        .await
        .context("a dial took more than 20 s")??;
    Ok((link, since.elapsed(), process::cpu() - cpu))
}

/// Runs the measurements, in the dialing process.
pub(crate) async fn measure(stack: &'static dyn Stack, plan: Plan) -> Result<Sample> {
    let mut sample = Sample::default();
    let mut listener = Listener::start(stack)?;
    let mut numbers = 0..;
    near(stack, plan, &mut listener, &mut numbers, &mut sample).await.context("near dials")?;
    far(stack, plan, &listener, &mut numbers, &mut sample).await.context("far dials")?;
    if stack.scope() != Scope::Dials {
        talk(stack, plan, &mut listener, &mut numbers, &mut sample).await.context("requests")?;
    }
    drop(listener);
    if matches!(stack.scope(), Scope::All | Scope::NoBulk) {
        idle(stack, plan, &mut sample).await.context("idle connections")?;
    }
    Ok(sample)
}

async fn near(
    stack: &'static dyn Stack,
    plan: Plan,
    listener: &mut Listener,
    numbers: &mut Numbers,
    sample: &mut Sample,
) -> Result<()> {
    for _ in 0..WARM_UP {
        first(stack, numbers, &listener.target).await?.0.close().await;
    }
    let theirs = listener.usage()?.cpu;
    let (mut times, mut ours) = (Vec::new(), Duration::ZERO);
    for _ in 0..plan.dials {
        let (link, time, cpu) = first(stack, numbers, &listener.target).await?;
        times.push(time.as_secs_f64() * 1e3);
        let since = process::cpu();
        link.close().await;
        ours += cpu + (process::cpu() - since);
        tokio::time::sleep(PAUSE).await;
    }
    if plan.dials > 0 {
        let cpu = ours + (listener.usage()?.cpu - theirs);
        sample.dial_cpu_ms = Some(cpu.as_secs_f64() * 1e3 / plan.dials as f64);
    }
    sample.dial_ms = stats::percentile(&mut times, 50);
    sample.dial_p95_ms = stats::percentile(&mut times, 95);
    Ok(())
}

async fn far(
    stack: &'static dyn Stack,
    plan: Plan,
    listener: &Listener,
    numbers: &mut Numbers,
    sample: &mut Sample,
) -> Result<()> {
    let mut target = listener.target.clone();
    target.socket = proxy::start(stack.carrier(), target.socket, DELAY)?;
    let mut times = Vec::new();
    for _ in 0..plan.far_dials {
        let (link, time, _) = first(stack, numbers, &target).await?;
        times.push(time.as_secs_f64() * 1e3);
        // Only the last connection waits until its end has been sent.
        let _ = tokio::time::timeout(Duration::from_millis(500), link.close()).await;
    }
    sample.far_dial_ms = stats::percentile(&mut times, 50);
    Ok(())
}

async fn talk(
    stack: &'static dyn Stack,
    plan: Plan,
    listener: &mut Listener,
    numbers: &mut Numbers,
    sample: &mut Sample,
) -> Result<()> {
    let (mut times, mut medians) = (Vec::new(), Vec::new());
    let (mut speeds, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..LINKS {
        let (mut link, ..) = first(stack, numbers, &listener.target).await?;
        let mut own = ask(&mut *link, plan.asks / LINKS).await?;
        medians.extend(stats::percentile(&mut own, 50));
        times.extend(own);
        if stack.scope() == Scope::All && plan.bulk_mib > 0 {
            let (speed, cost) = bulk(&mut *link, plan.bulk_mib << 20, listener).await?;
            speeds.push(speed);
            costs.push(cost);
        }
        link.close().await;
    }
    sample.ask_us = stats::percentile(&mut medians, 50);
    sample.ask_p99_us = stats::percentile(&mut times, 99);
    sample.bulk_mb_s = stats::percentile(&mut speeds, 50);
    sample.bulk_cpu_s_gib = stats::percentile(&mut costs, 50);
    Ok(())
}

/// Microseconds of each request.
async fn ask(link: &mut dyn Link, count: u64) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let warm_up = count / 10;
    for number in 0..warm_up + count {
        let since = Instant::now();
        link.ask(ASK.into(), ASK).await?;
        if number >= warm_up {
            times.push(since.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(times)
}

/// MB/s, and seconds of processor time for each GiB.
async fn bulk(link: &mut dyn Link, bytes: u64, listener: &mut Listener) -> Result<(f64, f64)> {
    link.ask(bytes / 8, 1).await?;
    let (theirs, ours, since) = (listener.usage()?.cpu, process::cpu(), Instant::now());
    link.ask(bytes, 1).await?;
    let (took, ours) = (since.elapsed(), process::cpu() - ours);
    let cpu = ours + (listener.usage()?.cpu - theirs);
    let gib = bytes as f64 / (1u64 << 30) as f64;
    Ok((bytes as f64 / 1e6 / took.as_secs_f64(), cpu.as_secs_f64() / gib))
}

async fn idle(stack: &'static dyn Stack, plan: Plan, sample: &mut Sample) -> Result<()> {
    if plan.idle == 0 {
        return Ok(());
    }
    let mut listener = Listener::start(stack)?;
    let mut numbers = 0..;
    let mut links = Vec::new();
    let mut before = 0;
    for number in 0..WARM_UP + plan.idle {
        if number == WARM_UP {
            tokio::time::sleep(SETTLE).await;
            before = listener.usage()?.kib;
        }
        links.push(first(stack, &mut numbers, &listener.target).await?.0);
    }
    tokio::time::sleep(SETTLE).await;
    let after = listener.usage()?.kib;
    sample.idle_kib = Some(after.saturating_sub(before) as f64 / plan.idle as f64);
    Ok(())
}
