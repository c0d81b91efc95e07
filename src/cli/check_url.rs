//! `outhook check-url`

use std::net::SocketAddr;

use clap::Args;
use outhook_core::{
    egress::{Egress, OwnAddresses},
    outcome::Fault,
};
use serde::Serialize;
use serde_json::json;
use url::{Host, Url};

use super::output::{say, say_json, table};
use crate::{
    config::{Config, connection_url::ConnectionUrl, egress::NameServers},
    exit::{Exit, Failed},
    http::{ADDRESSES_MAX, Interfaces, Resolver, addresses_of},
};

/// Says whether the daemon would call a URL, and by which rule. Nothing is dialled but name servers.
#[derive(Debug, Args)]
pub(super) struct CheckUrl {
    /// The URL of an endpoint.
    url: String,
    /// One JSON object for each address, and one for the verdict.
    #[arg(long)]
    json: bool,
}

/// How the decision went, step by step.
struct Decision {
    steps: Vec<(&'static str, String)>,
    addresses: Vec<Decided>,
    verdict: Verdict,
}

/// What becomes of an address.
#[derive(Serialize)]
struct Decided {
    address: SocketAddr,
    is_allowed: bool,
    /// Whether it is among the first allowed ones; a call tries no others.
    is_tried: bool,
    rule: String,
}

/// Whether a call would be made, or the fault with which it would fail.
enum Verdict {
    Allowed,
    /// By outhook; the proxy may refuse.
    LeftToProxy,
    Refused(Fault, String),
}

impl CheckUrl {
    pub(super) async fn execute(self, config: Config) -> Result<Exit, Failed> {
        let own = Interfaces::read().map_err(Failed::unavailable)?.own();
        let decision = Decision::on(&self.url, &config, &own).await;
        if self.json {
            decision.say_json()?;
        } else {
            decision.say()?;
        }
        Ok(decision.verdict.exit())
    }
}

impl Decision {
    /// Decides as the daemon does, in its order.
    async fn on(text: &str, config: &Config, own: &OwnAddresses) -> Self {
        let egress = Egress::from(&config.egress);
        let url = match egress.endpoint(text) {
            Ok(url) => url,
            Err(fault) => return Self::refused(vec![], Fault::BadUrl, fault.to_string()),
        };
        if let Some(proxy) = &config.egress.proxy {
            return Self::by_proxy(&url, &egress, proxy);
        }
        let steps = steps(&url, &egress, &config.egress.resolver);
        let (host, port) = target(&url);
        let resolver = Resolver::new(&config.egress.resolver, config.http.connect_timeout);
        match addresses_of(&resolver, host, port).await {
            Ok(addresses) => {
                Self::by_address(steps, addresses.into_iter().map(|at| decide(&egress, own, host, at)))
            }
            Err(error) => Self::refused(steps, Fault::Dns, error.to_string()),
        }
    }

    /// A proxy resolves and decides by itself, and only when it is called.
    fn by_proxy(url: &Url, egress: &Egress, proxy: &ConnectionUrl) -> Self {
        let mut steps = spelling(url, egress);
        steps.push(("proxy", format!("{proxy} looks the host up, and decides about its addresses")));
        Self { steps, addresses: vec![], verdict: Verdict::LeftToProxy }
    }

    fn by_address(steps: Vec<(&'static str, String)>, addresses: impl Iterator<Item = Decided>) -> Self {
        let mut addresses: Vec<Decided> = addresses.collect();
        let allowed = addresses.iter_mut().filter(|decided| decided.is_allowed);
        allowed.take(ADDRESSES_MAX).for_each(|decided| decided.is_tried = true);
        let verdict = match addresses.iter().any(|decided| decided.is_allowed) {
            true => Verdict::Allowed,
            false => Verdict::Refused(Fault::Blocked, "none of its addresses may be called".to_owned()),
        };
        Self { steps, addresses, verdict }
    }

    fn refused(steps: Vec<(&'static str, String)>, fault: Fault, detail: String) -> Self {
        Self { steps, addresses: vec![], verdict: Verdict::Refused(fault, detail) }
    }

    fn say(&self) -> Result<(), Failed> {
        for (step, found) in &self.steps {
            say(format!("{step:<8} {found}"))?;
        }
        if !self.addresses.is_empty() {
            let mut lines = table(["ADDRESS", "", "RULE"]);
            for decided in &self.addresses {
                lines.add_row([&decided.address.to_string(), decided.word(), &decided.rule]);
            }
            say(lines.to_string())?;
        }
        if self.addresses.iter().any(Decided::is_too_many) {
            say(format!("tried    only the first {ADDRESSES_MAX} of the allowed addresses"))?;
        }
        match &self.verdict {
            Verdict::Allowed => say("verdict  allowed"),
            Verdict::LeftToProxy => say("verdict  allowed, unless the proxy refuses"),
            Verdict::Refused(fault, detail) => say(format!("verdict  {fault}: {detail}")),
        }
    }

    fn say_json(&self) -> Result<(), Failed> {
        for decided in &self.addresses {
            say_json(decided)?;
        }
        let url = self.steps.iter().find(|(step, _)| *step == URL).map(|(_, url)| url);
        match &self.verdict {
            Verdict::Allowed => say_json(&json!({ "url": url, "verdict": "allowed" })),
            Verdict::LeftToProxy => {
                say_json(&json!({ "url": url, "verdict": "allowed", "decided_by": "proxy" }))
            }
            Verdict::Refused(fault, detail) => {
                say_json(&json!({ "url": url, "verdict": fault.name(), "detail": detail }))
            }
        }
    }
}

impl Decided {
    fn word(&self) -> &'static str {
        match self.is_allowed {
            true if self.is_too_many() => "allowed, not tried",
            true => "allowed",
            false => "blocked",
        }
    }

    fn is_too_many(&self) -> bool {
        self.is_allowed && !self.is_tried
    }
}

impl Verdict {
    /// A name that is not found may be there tomorrow; all else is for the operator to change.
    fn exit(&self) -> Exit {
        match self {
            Self::Allowed | Self::LeftToProxy => Exit::Success,
            Self::Refused(Fault::Dns, _) => Exit::Unavailable,
            Self::Refused(..) => Exit::Usage,
        }
    }
}

/// The step that shows a URL as it would be requested.
const URL: &str = "url";

/// What the URL says by itself.
fn spelling(url: &Url, egress: &Egress) -> Vec<(&'static str, String)> {
    let ports = if egress.ports.is_empty() { "any is allowed" } else { "one of egress.ports" };
    vec![
        (URL, url.to_string()),
        ("scheme", url.scheme().to_owned()),
        ("port", format!("{}: {ports}", target(url).1)),
    ]
}

/// What is known before anything is looked up.
fn steps(url: &Url, egress: &Egress, resolver: &NameServers) -> Vec<(&'static str, String)> {
    let (host, port) = target(url);
    let asked = match resolver {
        NameServers::System => "the system's name servers".to_owned(),
        NameServers::Listed(servers) => {
            let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
            servers.join(", ")
        }
    };
    let kind = match (url.host(), egress.host(host, port)) {
        (_, Some(allowed)) => format!("allowed by {allowed} in egress.allow, whatever its addresses are"),
        (Some(Host::Domain(_)), None) => format!("looked up by {asked}, each address is judged"),
        (_, None) => "an address".to_owned(),
    };
    let mut steps = spelling(url, egress);
    steps.push(("host", format!("{host}: {kind}")));
    steps
}

/// The host and the port that are called.
pub(super) fn target(url: &Url) -> (&str, u16) {
    (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// By the rules alone.
fn decide(egress: &Egress, own: &OwnAddresses, host: &str, address: SocketAddr) -> Decided {
    let (is_allowed, rule) = match egress.permit(host, address, own) {
        Ok(permit) => (true, permit.to_string()),
        Err(blocked) => (false, blocked.rule.to_owned()),
    };
    Decided { address, is_allowed, is_tried: false, rule }
}
