//! How a PostgreSQL server is reached: what `database.url` says, and what outhook adds.

use std::{net::IpAddr, path::Path};

use sea_orm::{
    SqlxError,
    sqlx::{
        ConnectOptions,
        postgres::{PgConnectOptions, PgSslMode},
    },
};
use url::{Host, Url};

use super::{OpenError, error::from_sqlx, pool::PostgresConnector};
use crate::config::{connection_url::ConnectionUrl, database::Database};

/// Reads the URL.
///
/// # Errors
/// Several hosts, a value that the driver does not know, a file of TLS that can't be read.
pub(super) fn connector(url: &ConnectionUrl, config: &Database) -> Result<PostgresConnector, OpenError> {
    if url.has_several_hosts() {
        return Err(OpenError::Unusable(
            "database.url names several hosts, and outhook connects to one: name one that leads to the primary, such as a \
             proxy, a virtual address or a DNS name"
                .into(),
        ));
    }
    let parsed =
        Url::parse(url.expose()).map_err(|error| from_sqlx(SqlxError::Configuration(error.into())))?;
    check_files(&parsed)?;
    let options = url.expose().parse::<PgConnectOptions>().map_err(from_sqlx)?;
    Ok(PostgresConnector {
        options: complete(options, &parsed),
        lease: config.lease,
        timeout: config.timeout,
    })
}

/// What the URL leaves open. PgBouncer refuses `extra_float_digits`, which concerns only older servers.
fn complete(options: PgConnectOptions, url: &Url) -> PgConnectOptions {
    let options = match url.host() {
        // The driver takes an address of IPv6 with the brackets that it has in a URL.
        Some(Host::Ipv6(address)) => options.host(&address.to_string()),
        _ => options,
    };
    let options = options.extra_float_digits(None).disable_statement_logging();
    if says_ssl_mode(url) || is_local(&options) { options } else { options.ssl_mode(PgSslMode::VerifyFull) }
}

fn says_ssl_mode(url: &Url) -> bool {
    url.query_pairs().any(|(key, _)| key == "sslmode" || key == "ssl-mode")
}

/// Whether nothing between here and the server could listen or lie.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let address = host.parse::<IpAddr>();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The driver reports a file that is not there as if it were the network.
fn check_files(url: &Url) -> Result<(), OpenError> {
    let files = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];
    for (key, path) in url.query_pairs() {
        let is_inline = path.starts_with("-----BEGIN");
        if files.contains(&&*key)
            && !is_inline
            && let Err(error) = std::fs::File::open(Path::new(&*path))
        {
            return Err(OpenError::Unusable(format!(
                "{key} of database.url names {path}, which can't be read: {error}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(url: &str) -> PgConnectOptions {
        complete(url.parse().expect("options"), &Url::parse(url).expect("a URL"))
    }

    #[test]
    fn another_machine_is_verified_unless_the_url_says_otherwise() {
        for (url, is_verified) in [
            ("postgres://db.example.org/outhook", true),
            ("postgres://10.0.0.7/outhook", true),
            ("postgres://[2001:db8::7]/outhook", true),
            ("postgres://127.0.0.1:5433/outhook", false),
            ("postgres://127.8.9.10/outhook", false),
            ("postgres://[::1]/outhook", false),
            ("postgres://[::ffff:127.0.0.1]/outhook", false),
            ("postgres://LOCALHOST/outhook", false),
            ("postgres://localhost.example.org/outhook", true),
            ("postgres:///outhook?host=/var/run/postgresql", false),
            ("postgres://%2Fvar%2Frun%2Fpostgresql/outhook", false),
            ("postgres://db.example.org/outhook?sslmode=require", false),
            ("postgres://db.example.org/outhook?sslmode=disable", false),
            ("postgres://db.example.org/outhook?sslrootcert=/etc/hosts", true),
        ] {
            let mode = completed(url).get_ssl_mode();
            assert_eq!(matches!(mode, PgSslMode::VerifyFull), is_verified, "{url}: {mode:?}");
        }
    }

    #[test]
    fn an_address_of_ipv6_loses_its_brackets() {
        assert_eq!(completed("postgres://[::1]:5433/outhook").get_host(), "::1");
    }
}
