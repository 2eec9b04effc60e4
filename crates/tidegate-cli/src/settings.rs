//! The settings of a node, and the source of each: a flag, the environment, the configuration file,
//! or a default; the first that has it wins.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use tidegate::Multiaddr;

use crate::print::{self, say};

pub(crate) mod address;

/// Name of the configuration file in the node's folder.
pub(crate) const FILE: &str = "tidegate.toml";

/// The same settings in the three places. The names are those of the file; a flag has dashes, and
/// a variable begins with `TIDEGATE_`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Source {
    /// Accept connections at these addresses [default: UDP port 4001 of all interfaces]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = address::parse)]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "address::list")]
    pub(crate) listen: Option<Vec<Multiaddr>>,
    /// What connections are made and accepted over; with webrtc, others whom a peer of this node knows can ask it for its
    /// addresses [default: quic,webrtc,tcp]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transports: Option<Vec<Carrier>>,
    /// Addresses at which others reach this node, beside those that peers see it at
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = address::parse)]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "address::list")]
    pub(crate) external: Option<Vec<Multiaddr>>,
    /// Learn of peers at these addresses
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = address::parse)]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "address::list")]
    pub(crate) bootstrap: Option<Vec<Multiaddr>>,
    /// Stay connected to the peers at these addresses
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = address::parse)]
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "address::list")]
    pub(crate) peers: Option<Vec<Multiaddr>>,
    /// Peers of this node's own choice; 0 for a closed network of `peers` [default: 8]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outbound: Option<u32>,
    /// Connections that others may make [default: 80]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_inbound: Option<u32>,
    /// Threads that check transfers and blocks [default: the number of cores]
    #[arg(long, value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workers: Option<u32>,
    /// Key of the node, in its folder unless the path is absolute [default: node.key]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_key: Option<PathBuf>,
    /// Make blocks with this key when it is its turn
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) producer_key: Option<PathBuf>,
    /// Prove the jobs of new blocks, for the account of this key
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prover_key: Option<PathBuf>,
    /// Where the other commands reach this node [default: control.sock]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) control: Option<PathBuf>,
    /// Where the HTTP API is, or `off`; on other addresses than loopback it wants a token
    /// [default: 127.0.0.1:4080]
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api: Option<ApiAddress>,
    /// The file of the token; with this the API wants it on loopback too [default: api.token]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_token: Option<PathBuf>,
}

/// What connections are made over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Carrier {
    Quic,
    Webrtc,
    Tcp,
}

impl Carrier {
    const ALL: [Self; 3] = [Self::Quic, Self::Webrtc, Self::Tcp];

    fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Webrtc => "webrtc",
            Self::Tcp => "tcp",
        }
    }
}

impl FromStr for Carrier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|carrier| carrier.name() == text);
        named.ok_or_else(|| format!("{text:?}: give some of quic, webrtc, tcp"))
    }
}

/// The address of the HTTP API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApiAddress {
    Off,
    At(SocketAddr),
}

impl FromStr for ApiAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::At).map_err(|_| {
                "give an IP address and a port, for instance 127.0.0.1:4080, or off".to_owned()
            }),
        }
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(at) => at.fmt(f),
        }
    }
}

impl Serialize for ApiAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApiAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
    }
}

/// The UDP port that a node listens at.
pub(crate) const PORT: u16 = 4001;

/// By default the API is only for this machine.
const DEFAULT_API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4080);

/// Printed for a path that is not set.
const NONE: &str = "";

/// The source of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    Flag,
    Environment,
    File,
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => FILE,
            Self::Default => "default",
        })
    }
}

/// A value and its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

impl<T: Clone> Setting<Option<T>> {
    /// The value of the first of the three sources that has it: flag, environment, file.
    fn first(from: [&Option<T>; 3]) -> Self {
        let origins = [Origin::Flag, Origin::Environment, Origin::File];
        let found = from.into_iter().zip(origins).find(|(value, _)| value.is_some());
        match found {
            Some((value, origin)) => Self { value: value.clone(), origin },
            None => Self { value: None, origin: Origin::Default },
        }
    }

    fn or(self, default: T) -> Setting<T> {
        Setting { value: self.value.unwrap_or(default), origin: self.origin }
    }
}

/// The settings of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Settings {
    #[serde(skip)]
    pub(crate) folder: PathBuf,
    pub(crate) listen: Setting<Vec<Multiaddr>>,
    pub(crate) transports: Setting<Vec<Carrier>>,
    pub(crate) external: Setting<Vec<Multiaddr>>,
    pub(crate) bootstrap: Setting<Vec<Multiaddr>>,
    pub(crate) peers: Setting<Vec<Multiaddr>>,
    pub(crate) outbound: Setting<u32>,
    pub(crate) max_inbound: Setting<u32>,
    pub(crate) workers: Setting<u32>,
    pub(crate) node_key: Setting<PathBuf>,
    pub(crate) producer_key: Setting<Option<PathBuf>>,
    pub(crate) prover_key: Setting<Option<PathBuf>>,
    pub(crate) control: Setting<PathBuf>,
    pub(crate) api: Setting<ApiAddress>,
    pub(crate) api_token: Setting<PathBuf>,
}

/// The folder of a node, and flags that change its settings.
#[derive(clap::Args)]
pub(crate) struct Place {
    /// The node's folder, as `tidegate init` makes it
    #[arg(long, short, env = "TIDEGATE_FOLDER", default_value = ".", value_name = "DIR")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) flags: Source,
}

impl Settings {
    /// All three sources, in order of precedence.
    pub(crate) fn load(place: &Place) -> anyhow::Result<Self> {
        let folder = &place.folder;
        if !folder.is_dir() {
            let name = folder.display();
            bail!("{name}: no folder of a node: `tidegate init {name}` makes one");
        }
        let path = folder.join(FILE);
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).with_context(|| path.display().to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Source::default(),
            Err(error) => bail!("{}: {error}", path.display()),
        };
        for name in unknown(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())) {
            // It may belong to another program, so it is no reason to stop.
            tracing::warn!("{name}: no setting has this name (`tidegate config` lists them)");
        }
        let environment = from_environment(|name| std::env::var(name).ok())?;
        Ok(Self::merge(folder, &place.flags, &environment, &file))
    }

    fn merge(folder: &Path, flags: &Source, environment: &Source, file: &Source) -> Self {
        macro_rules! first {
            ($name:ident) => {
                Setting::first([&flags.$name, &environment.$name, &file.$name])
            };
        }
        let any = ["/ip4/0.0.0.0", "/ip6/::"].map(|ip| format!("{ip}/udp/{PORT}/quic-v1"));
        let listen = any.map(|address| address.parse().expect("a multiaddr"));
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let limits = tidegate::Limits::default();
        Self {
            folder: folder.to_owned(),
            listen: first!(listen).or(listen.to_vec()),
            transports: first!(transports).or(Carrier::ALL.to_vec()),
            external: first!(external).or(Vec::new()),
            bootstrap: first!(bootstrap).or(Vec::new()),
            peers: first!(peers).or(Vec::new()),
            outbound: first!(outbound).or(8),
            max_inbound: first!(max_inbound).or(limits.max_inbound),
            workers: first!(workers).or(cores),
            node_key: first!(node_key).or("node.key".into()),
            producer_key: first!(producer_key),
            prover_key: first!(prover_key),
            control: first!(control).or("control.sock".into()),
            api: first!(api).or(ApiAddress::At(DEFAULT_API)),
            api_token: first!(api_token).or("api.token".into()),
        }
    }

    /// A path of the node: relative paths are in its folder.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// All settings with their sources.
    fn rows(&self) -> Vec<(&'static str, String, Origin)> {
        fn list(addresses: &[Multiaddr]) -> String {
            let addresses = addresses.iter().map(|address| format!("{:?}", address.to_string()));
            format!("[{}]", addresses.collect::<Vec<_>>().join(", "))
        }
        fn names(carriers: &[Carrier]) -> String {
            let names = carriers.iter().map(|carrier| format!("{:?}", carrier.name()));
            format!("[{}]", names.collect::<Vec<_>>().join(", "))
        }
        fn path(path: &Option<PathBuf>) -> String {
            path.as_ref().map_or_else(|| NONE.to_owned(), |path| format!("{path:?}"))
        }
        vec![
            ("listen", list(&self.listen.value), self.listen.origin),
            ("transports", names(&self.transports.value), self.transports.origin),
            ("external", list(&self.external.value), self.external.origin),
            ("bootstrap", list(&self.bootstrap.value), self.bootstrap.origin),
            ("peers", list(&self.peers.value), self.peers.origin),
            ("outbound", self.outbound.value.to_string(), self.outbound.origin),
            ("max_inbound", self.max_inbound.value.to_string(), self.max_inbound.origin),
            ("workers", self.workers.value.to_string(), self.workers.origin),
            ("node_key", format!("{:?}", self.node_key.value), self.node_key.origin),
            ("producer_key", path(&self.producer_key.value), self.producer_key.origin),
            ("prover_key", path(&self.prover_key.value), self.prover_key.origin),
            ("control", format!("{:?}", self.control.value), self.control.origin),
            ("api", format!("{:?}", self.api.value.to_string()), self.api.origin),
            ("api_token", format!("{:?}", self.api_token.value), self.api_token.origin),
        ]
    }
}

/// Environment variables that look like settings but are not.
fn unknown(names: impl Iterator<Item = String>) -> Vec<String> {
    let is_known = |name: &String| {
        let others = ["TIDEGATE_FOLDER", "TIDEGATE_LOG"].contains(&name.as_str());
        let set = || from_environment(|asked| (asked == name).then(|| "x".to_owned()));
        others || !set().is_ok_and(|source| source == Source::default())
    };
    names.filter(|name| name.starts_with("TIDEGATE_") && !is_known(name)).collect()
}

/// The settings in the environment: variables named like the keys of the file.
fn from_environment(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Source> {
    fn read<T: FromStr<Err: fmt::Display>>(
        name: &str,
        text: Option<String>,
    ) -> anyhow::Result<Option<T>> {
        let read = |text: String| text.parse().map_err(|error| anyhow!("{name}={text}: {error}"));
        text.map(read).transpose()
    }
    let addresses = |name: &str| -> anyhow::Result<Option<Vec<Multiaddr>>> {
        let Some(text) = variable(name) else { return Ok(None) };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let read =
            |part: &str| address::parse(part).map_err(|error| anyhow!("{name}={text}: {error}"));
        parts.map(read).collect::<Result<_, _>>().map(Some)
    };
    let carriers = |name: &str| -> anyhow::Result<Option<Vec<Carrier>>> {
        let Some(text) = variable(name) else { return Ok(None) };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let read = |part: &str| part.parse().map_err(|error| anyhow!("{name}={text}: {error}"));
        parts.map(read).collect::<Result<_, _>>().map(Some)
    };
    let number = |name: &str| read::<u32>(name, variable(name));
    let path = |name: &str| variable(name).map(PathBuf::from);
    Ok(Source {
        listen: addresses("TIDEGATE_LISTEN")?,
        transports: carriers("TIDEGATE_TRANSPORTS")?,
        external: addresses("TIDEGATE_EXTERNAL")?,
        bootstrap: addresses("TIDEGATE_BOOTSTRAP")?,
        peers: addresses("TIDEGATE_PEERS")?,
        outbound: number("TIDEGATE_OUTBOUND")?,
        max_inbound: number("TIDEGATE_MAX_INBOUND")?,
        workers: number("TIDEGATE_WORKERS")?,
        node_key: path("TIDEGATE_NODE_KEY"),
        producer_key: path("TIDEGATE_PRODUCER_KEY"),
        prover_key: path("TIDEGATE_PROVER_KEY"),
        control: path("TIDEGATE_CONTROL"),
        api: read("TIDEGATE_API", variable("TIDEGATE_API"))?,
        api_token: path("TIDEGATE_API_TOKEN"),
    })
}

/// Reads a configuration file. An error is one line.
fn parse(text: &str) -> anyhow::Result<Source> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = &text[..error.span().map_or(0, |span| span.start).min(text.len())];
        let line = before.matches('\n').count();
        let message = error.message().replace('\n', " ");
        // The setting that the error is about, as far as the line tells.
        let key = text.lines().nth(line).and_then(|line| line.split_once('='));
        match key.map(|(key, _)| key.trim()).filter(|key| !message.contains(*key)) {
            Some(key) if !key.is_empty() => anyhow!("line {}: {key}: {message}", line + 1),
            _ => anyhow!("line {}: {message}", line + 1),
        }
    })
}

/// What to print.
#[derive(clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    place: Place,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the settings in effect, and where each comes from.
pub(crate) fn show(show: &Show) -> anyhow::Result<bool> {
    let settings = Settings::load(&show.place)?;
    if show.json {
        return print::json(&settings);
    }
    let rows = settings.rows();
    let width = rows.iter().map(|(name, value, _)| name.len() + value.len()).max().unwrap_or(0);
    for (name, value, origin) in rows {
        let gap = width - name.len() - value.len();
        // Settings that are missing in the file are not set.
        let comment = if value == NONE { "#" } else { "" };
        say!("{comment}{name} = {value}{:gap$}  # {origin}", "");
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn outbound(count: u32) -> Source {
        Source { outbound: Some(count), ..Source::default() }
    }

    #[test]
    fn flags_override_the_environment_which_overrides_the_file() {
        let none = Source::default();
        let cases = [
            ([&none, &none, &none], (8, Origin::Default)),
            ([&none, &none, &outbound(1)], (1, Origin::File)),
            ([&none, &outbound(2), &outbound(1)], (2, Origin::Environment)),
            ([&outbound(3), &outbound(2), &outbound(1)], (3, Origin::Flag)),
            ([&outbound(3), &none, &outbound(1)], (3, Origin::Flag)),
        ];
        for ([flags, environment, file], (value, origin)) in cases {
            let settings = Settings::merge(Path::new("."), flags, environment, file);
            assert_eq!(settings.outbound, Setting { value, origin });
        }
    }

    #[test]
    fn errors_in_the_file_and_the_environment_fit_one_line() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        let unknown = error("outbound = 3\noutbond = 4\n");
        assert!(unknown.contains("line 2") && unknown.contains("outbond"), "{unknown}");
        assert!(error("outbound = \"three\"").contains("u32"));
        let string = error("listen = \"/ip4/127.0.0.1/udp/4001/quic-v1\"");
        assert!(string.starts_with("line 1: listen: ") && string.contains("sequence"), "{string}");
        let address = error("listen = [\"127.0.0.1:4001\"]");
        assert!(address.contains("line 1") && !address.contains('\n'), "{address}");
        let from = |name: &'static str, value: &str| {
            let value = value.to_owned();
            from_environment(move |asked| (asked == name).then(|| value.clone()))
        };
        let good = from("TIDEGATE_PEERS", "/ip4/1.2.3.4/udp/1/quic-v1, /dns4/a.b/udp/1/quic-v1");
        assert_eq!(good.unwrap().peers.unwrap().len(), 2);
        let bad = from("TIDEGATE_PEERS", "1.2.3.4").unwrap_err().to_string();
        assert!(bad.starts_with("TIDEGATE_PEERS=1.2.3.4: "), "{bad}");
        let bad = from("TIDEGATE_OUTBOUND", "-1").unwrap_err().to_string();
        assert!(bad.starts_with("TIDEGATE_OUTBOUND=-1: "), "{bad}");
    }

    #[test]
    fn misspelt_variables_are_reported() {
        let names =
            ["TIDEGATE_OUTBOUND", "TIDEGATE_OUTBUND", "TIDEGATE_LOG", "HOME", "TIDEGATE_API"];
        assert_eq!(unknown(names.map(str::to_owned).into_iter()), ["TIDEGATE_OUTBUND"]);
    }

    /// Lines that are valid, nearly valid, and nonsense.
    fn line() -> impl Strategy<Value = String> {
        let key = prop_oneof![
            select(vec!["listen", "peers", "outbound", "workers", "control", "api", "api_token"]),
            select(vec!["outbond", "", "[table]", "#", "\"", "listen.x", "\u{feff}outbound"]),
        ];
        let value = prop_oneof![
            select(vec![
                "3",
                "-1",
                "4294967296",
                "true",
                "\"off\"",
                "\"127.0.0.1:80\"",
                "{}",
                "\""
            ]),
            select(vec![
                "[\"/ip4/1.2.3.4/udp/1/quic-v1\"]",
                "[]",
                "[[",
                "\"\\u0000\"",
                "0x7",
                "''"
            ]),
            Just("\"a\nb\""),
        ];
        let pair = (key, value).prop_map(|(key, value)| format!("{key} = {value}"));
        prop_oneof![4 => pair, 1 => any::<String>()]
    }

    proptest! {
        /// Any file gives either settings that survive writing and reading, or an error of one line
        /// that says where and what is wrong.
        #[test]
        fn any_file_is_read_or_refused(lines in prop::collection::vec(line(), 0..6)) {
            match parse(&lines.join("\n")) {
                Ok(source) => {
                    let again = toml::to_string(&source).expect("it can be written");
                    prop_assert_eq!(parse(&again).expect("and read"), source);
                }
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.starts_with("line ") && !error.contains('\n'), "{}", error);
                }
            }
        }

        /// The same for a variable.
        #[test]
        fn any_variable_is_read_or_refused(value in prop_oneof![line(), any::<String>()]) {
            for name in ["TIDEGATE_PEERS", "TIDEGATE_OUTBOUND", "TIDEGATE_API"] {
                let from = from_environment(|asked| (asked == name).then(|| value.clone()));
                if let Err(error) = from {
                    prop_assert!(error.to_string().starts_with(name));
                }
            }
        }
    }

    /// Every key of the file has a flag and a variable, and `tidegate config` prints it.
    #[test]
    fn every_setting_is_a_key_a_flag_and_a_variable() {
        use clap::Args as _;
        let settings = Settings::merge(
            Path::new("."),
            &Source::default(),
            &Source::default(),
            &Source::default(),
        );
        let printed = settings.rows().into_iter().map(|(name, ..)| name.to_owned());
        let printed = printed.collect::<Vec<_>>();
        let command = Source::augment_args(clap::Command::new("x"));
        let flags = command.get_arguments().filter_map(|argument| argument.get_long());
        assert_eq!(flags.map(|flag| flag.replace('-', "_")).collect::<Vec<_>>(), printed);
        for name in &printed {
            let variable = format!("TIDEGATE_{}", name.to_uppercase());
            let value = match name.as_str() {
                "listen" | "external" | "bootstrap" | "peers" => "/ip4/1.2.3.4/udp/1/quic-v1",
                "api" => "127.0.0.1:7",
                "transports" => "webrtc",
                _ => "7",
            };
            let source = from_environment(|asked| (asked == variable).then(|| value.to_owned()));
            assert_ne!(source.unwrap(), Source::default(), "{variable}");
        }
    }
}
