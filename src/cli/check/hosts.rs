//! Whether Zulip serves the host of every organization: a reply is posted to that of its bot.

use futures_util::{StreamExt, stream};
use url::Url;

use super::Found;
use crate::{
    config::{Config, zulip::Zulip},
    exit::Failed,
    http::client_config,
    store,
    zulip::{RestClient, Settings, Site},
};

/// The most organizations whose hosts are asked for.
const ORGANIZATIONS_MAX: usize = 32;
/// Requests at a time.
const REQUESTS_MAX: usize = 4;

/// A host, and whether an organization is to be there.
struct Host {
    name: String,
    is_of_organization: bool,
}

/// Asks for every host, and reports all that are not served.
pub(super) async fn check(config: &Config, site: &Url) -> Result<Found, Failed> {
    let (hosts, is_cut) = hosts(config).await?;
    let rest = RestClient::new(site.clone(), client_config());
    let ask = async |host: Host| (rest.server_settings(&host.name).await, host);
    let answers: Vec<_> = stream::iter(hosts).map(ask).buffered(REQUESTS_MAX).collect().await;
    let (mut version, mut unserved, mut empty, mut served) = (String::new(), Vec::new(), Vec::new(), 0);
    for (answer, host) in answers {
        let Settings { zulip_version, realm_name } = match answer {
            Ok(settings) => settings,
            Err(fault) => {
                unserved.push(describe(site, &host, &fault));
                continue;
            }
        };
        if host.is_of_organization && realm_name.is_none() {
            empty.push(host.name);
        }
        (version, served) = (zulip_version, served + 1);
    }
    let cut = is_cut.then(|| format!(" (of more than {ORGANIZATIONS_MAX} organizations the first)"));
    let cut = cut.unwrap_or_default();
    let found = format!("{site} is Zulip {version}, hosts that it serves: {served}{cut}");
    let mut faults = unserved;
    if !empty.is_empty() {
        faults.push(format!(
            "it names no organization at {}: set zulip.external_host and zulip.realm_hosts as EXTERNAL_HOST and \
             REALM_HOSTS are set in Zulip",
            empty.join(", ")
        ));
    }
    if faults.is_empty() { Ok(Found::Well(found)) } else { Err(Failed::unavailable(faults.join("; "))) }
}

fn describe(site: &Url, host: &Host, fault: &str) -> String {
    let host = if host.name.is_empty() { String::new() } else { format!(", asked as {}", host.name) };
    format!("{site}{host}: {fault}")
}

/// The external host alone if the database does not tell: that is a fault of its own.
async fn hosts(config: &Config) -> Result<(Vec<Host>, bool), Failed> {
    // The salt is not needed here, and its file is checked elsewhere.
    let zulip = Zulip { avatar_salt_file: None, ..config.zulip.clone() };
    let site = Site::new(&zulip).map_err(Failed::usage)?;
    let mut organizations = organizations(config).await.unwrap_or_default();
    let is_cut = organizations.len() > ORGANIZATIONS_MAX;
    organizations.truncate(ORGANIZATIONS_MAX);
    let mut hosts: Vec<Host> = organizations
        .iter()
        .map(|organization| Host { name: site.realm_host(organization), is_of_organization: true })
        .collect();
    let external = site.realm_host("");
    if !hosts.iter().any(|host| host.name == external) {
        hosts.insert(0, Host { name: external, is_of_organization: false });
    }
    Ok((hosts, is_cut))
}

async fn organizations(config: &Config) -> Option<Vec<String>> {
    let store = store::open(&config.database).await.ok()?;
    let organizations = store.list_organizations(ORGANIZATIONS_MAX + 1).await.ok();
    store.close().await;
    organizations
}
