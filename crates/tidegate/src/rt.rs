//! The runtime: tasks, time and threads. Nothing else in this crate uses them directly, so a port
//! to another platform only changes this file.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_proto::Time;
pub(crate) use tokio::time::Instant;
use tokio::time::Sleep;

/// Spawns a future.
#[cfg(not(all(target_family = "wasm", not(target_feature = "atomics"))))]
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}

/// Spawns a future on the current thread, which is the only one: within a `LocalSet`.
#[cfg(all(target_family = "wasm", not(target_feature = "atomics")))]
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(future);
}

/// Yields to other tasks, if the caller has run for long.
pub(crate) async fn breathe() {
    tokio::task::consume_budget().await;
}

/// Runs blocking code on a new thread with this name.
#[cfg(feature = "threads")]
pub(crate) fn thread(name: String, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name).spawn(work).map(drop)
}

/// The result of a future, or `None` if it times out.
#[cfg(any(feature = "quic", feature = "store", feature = "tcp"))]
pub(crate) async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, future).await.ok()
}

/// Sleeps.
#[cfg(any(feature = "quic", feature = "tcp"))]
pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The addresses of the machine's interfaces; `None` where they cannot be read.
#[cfg(feature = "ip")]
pub(crate) fn interfaces() -> Option<Vec<std::net::IpAddr>> {
    let found = if_addrs::get_if_addrs();
    let found =
        found.inspect_err(|error| tracing::debug!("the interfaces cannot be listed: {error}"));
    let found = found.ok()?;
    let up = found.iter().filter(|interface| interface.oper_status != if_addrs::IfOperStatus::Down);
    let passing = passing();
    let ips = up.map(if_addrs::Interface::ip);
    let mut addresses = ips.filter(|ip| !passing.contains(ip)).collect::<Vec<_>>();
    addresses.sort_unstable();
    addresses.dedup();
    Some(addresses)
}

/// IPv6 addresses that are deprecated or tentative (RFC 4862, section 5.5.4 and 5.4): privacy
/// extensions leave a deprecated one behind each day.
#[cfg(all(feature = "ip", target_os = "linux"))]
fn passing() -> Vec<std::net::IpAddr> {
    let known = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    known.lines().filter_map(passing_of).collect()
}

#[cfg(all(feature = "ip", not(target_os = "linux")))]
fn passing() -> Vec<std::net::IpAddr> {
    Vec::new()
}

/// Parses a line: address, interface, prefix length, scope, flags and name.
#[cfg(all(feature = "ip", target_os = "linux"))]
fn passing_of(line: &str) -> Option<std::net::IpAddr> {
    /// IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE (linux/if_addr.h).
    const PASSING: u8 = 0x08 | 0x20 | 0x40;
    let mut words = line.split_ascii_whitespace();
    let address = u128::from_str_radix(words.next()?, 16).ok()?;
    let flags = u8::from_str_radix(words.nth(3)?, 16).ok()?;
    (flags & PASSING != 0).then(|| std::net::Ipv6Addr::from(address).into())
}

#[cfg(not(feature = "ip"))]
pub(crate) fn interfaces() -> Option<Vec<std::net::IpAddr>> {
    None
}

/// Milliseconds since 1970 by the machine's clock.
pub(crate) fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// The node's clock: zero when the node starts.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Time {
        Time::ZERO + self.start.elapsed()
    }

    fn instant(&self, at: Time) -> Instant {
        self.start + at.since(Time::ZERO)
    }
}

/// A reusable timer.
#[derive(Debug)]
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
    at: Option<Time>,
}

impl Timer {
    pub(crate) fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(Duration::ZERO)), at: None }
    }

    /// Ready at that time; with `None` never.
    pub(crate) fn poll(
        &mut self,
        clock: &Clock,
        at: Option<Time>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        if self.at != Some(at) {
            self.at = Some(at);
            self.sleep.as_mut().reset(clock.instant(at));
        }
        let ready = self.sleep.as_mut().poll(cx);
        if ready.is_ready() {
            // A sleep must not be polled again after it has completed.
            self.at = None;
        }
        ready
    }
}

#[cfg(all(test, feature = "ip", target_os = "linux"))]
mod tests {
    use super::*;

    /// Regression: of a machine's 19 addresses 18 were deprecated, and filled its record.
    #[test]
    fn addresses_that_pass_are_not_the_machines() {
        let line = |flags| format!("2400000100000000000000000000dead 02 40 00 {flags}     eth0");
        let address = "2400:1::dead".parse::<std::net::IpAddr>().unwrap();
        for (flags, passes) in
            [("80", false), ("00", false), ("a0", true), ("40", true), ("08", true)]
        {
            assert_eq!(passing_of(&line(flags)), passes.then_some(address), "{flags}");
        }
        assert_eq!(passing_of(""), None);
        assert_eq!(passing_of("x 02 40 00 20 eth0"), None);
    }
}
