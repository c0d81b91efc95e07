//! Which services lead to this machine itself, so that their calls fail as `blocked`.

use futures_util::{StreamExt, stream};
use outhook_core::egress::{Egress, OwnAddresses};

use super::Found;
use crate::{
    cli::check_url::target,
    config::Config,
    exit::Failed,
    http::{Interfaces, Resolver, addresses_of},
    store::{self, ServiceRow},
};

/// Services whose hosts are looked up at a time.
const LOOKUPS_MAX: usize = 64;
/// Services that are named; the others are counted.
const NAMED_MAX: usize = 20;

pub(super) async fn check(config: &Config) -> Result<Found, Failed> {
    if config.egress.proxy.is_some() {
        return Ok(Found::Well("left to the proxy".into()));
    }
    let own = Interfaces::read().map_err(Failed::unavailable)?.own();
    if own.public().next().is_none() {
        return Ok(Found::Well("it has no public address".into()));
    }
    let services = match list(config).await {
        Ok(services) => services,
        Err(fault) => return Ok(Found::Doubtful(format!("the services can't be listed: {}", fault.message))),
    };
    let resolver = Resolver::new(&config.egress.resolver, config.http.connect_timeout);
    Ok(describe(&leading_here(&Egress::from(&config.egress), &own, &services, &resolver).await))
}

async fn list(config: &Config) -> Result<Vec<ServiceRow>, Failed> {
    let store = store::open(&config.database).await?;
    let services = store.list_services().await;
    store.close().await;
    Ok(services?)
}

/// The services that would be called if their addresses were somebody else's.
async fn leading_here<'s>(
    egress: &Egress,
    own: &OwnAddresses,
    services: &'s [ServiceRow],
    resolver: &Resolver,
) -> Vec<&'s ServiceRow> {
    let looks = services
        .iter()
        .map(async |service| leads_here(egress, own, &service.url, resolver).await.then_some(service));
    stream::iter(looks).buffered(LOOKUPS_MAX).filter_map(async |found| found).collect().await
}

async fn leads_here(egress: &Egress, own: &OwnAddresses, url: &str, resolver: &Resolver) -> bool {
    let Ok(url) = egress.endpoint(url) else { return false };
    let (host, port) = target(&url);
    let addresses = addresses_of(resolver, host, port).await.unwrap_or_default();
    let may_dial =
        |own: &OwnAddresses| addresses.iter().any(|address| egress.permit(host, *address, own).is_ok());
    may_dial(&OwnAddresses::NONE) && !may_dial(own)
}

fn describe(services: &[&ServiceRow]) -> Found {
    if services.is_empty() {
        return Found::Well("no service leads here".into());
    }
    let named = services.iter().take(NAMED_MAX);
    let named: Vec<String> =
        named.map(|service| format!("{} ({})", service.id, service.name.escape_debug())).collect();
    let more = match services.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Found::Doubtful(format!(
        "services {}{more} lead to this machine itself, so their calls fail as blocked: add the host or the address \
         to egress.allow if it may be called",
        named.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::*;
    use crate::config::egress::NameServers;

    fn service(id: i64, url: &str) -> ServiceRow {
        ServiceRow {
            id,
            bot_id: 1,
            name: format!("s{id}"),
            url: url.to_owned(),
            interface: 1,
            reason: None,
            closed_until: None,
            since: None,
            detail: None,
        }
    }

    #[tokio::test]
    async fn only_services_that_nothing_else_blocks_or_allows_are_named() {
        let own: OwnAddresses =
            [IpAddr::from([93, 184, 215, 14]), [10, 0, 0, 1].into()].into_iter().collect();
        let urls = [
            "http://93.184.215.14/b",
            "https://93.184.215.14:8443/",
            "http://1.1.1.1/",
            "http://10.0.0.1/",
            "no URL",
            "http://93.184.215.14/a",
        ];
        let services: Vec<ServiceRow> = (1..).zip(urls).map(|(id, url)| service(id, url)).collect();
        let resolver = Resolver::new(&NameServers::System, Duration::from_secs(1));
        let found = leading_here(&Egress::default(), &own, &services, &resolver).await;
        let Found::Doubtful(told) = describe(&found) else { panic!("services lead here") };
        assert!(told.starts_with("services 1 (s1), 2 (s2), 6 (s6) lead to this machine"), "{told}");

        let allow = vec![
            "93.184.215.14/32"
                .parse()
                .map(|target| outhook_core::egress::Allowed { target, port: None })
                .expect("a network"),
        ];
        let egress = Egress { allow, ..Egress::default() };
        assert!(leading_here(&egress, &own, &services, &resolver).await.is_empty());
        assert!(matches!(describe(&[]), Found::Well(_)));
    }

    #[test]
    fn many_services_are_counted() {
        let services: Vec<ServiceRow> = (1..=25).map(|id| service(id, "")).collect();
        let Found::Doubtful(told) = describe(&services.iter().collect::<Vec<_>>()) else { panic!("none") };
        assert!(told.contains("20 (s20) and 5 more lead"), "{told}");
    }
}
