//! The configuration as a whole, read from texts: no file and no variable of the process is involved.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use outhook_core::egress::Allowed;

use super::database::{DatabaseUrl, Tables};
use super::egress::NameServers;
use super::fault::Fault;
use super::queue::QueueUrl;
use super::reply::ReplyTo;
use super::source::{layered, variables};
use super::{Config, ConfigError, Faults};

const SHIPPED: &str = include_str!("../../config.toml");

fn read_with(file: &str, environment: &[(&str, &str)]) -> Result<Config, Faults> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::read(layered(file, variables().source(Some(environment.collect())))?)
}

fn read(file: &str) -> Result<Config, Faults> {
    read_with(file, &[])
}

fn valid(file: &str) -> Config {
    read(file).unwrap_or_else(|faults| panic!("{file}: {faults}"))
}

/// All faults of `file`, as an operator sees them.
fn told(file: &str) -> String {
    read(file).expect_err(file).to_string()
}

/// `key = value` in its section, where `key` is written as in a fault.
fn assignment(key: &str, value: &str) -> String {
    let (section, key) = key.split_once('.').expect("a key with its section");
    format!("[{section}]\n{key} = {value}\n")
}

fn networks(texts: [&str; 2]) -> Vec<Allowed<IpNet>> {
    texts.iter().map(|text| Allowed { target: text.parse().expect("a network"), port: None }).collect()
}

/// Keys, with the lowest and the highest value they allow, and the values next to those.
const EDGES: &[(&str, [&str; 2], [&str; 2])] = &[
    ("queue.prefetch", ["1", "65535"], ["0", "65536"]),
    ("queue.max_event_bytes", ["1024", "134217728"], ["1023", "134217729"]),
    ("queue.stored_per_bot", ["1", "10000000"], ["0", "10000001"]),
    ("database.max_connections", ["2", "100"], ["1", "101"]),
    ("actors.event_pool", ["0", "64"], ["-1", "65"]),
    ("actors.in_memory_events", ["1", "1000000"], ["0", "1000001"]),
    ("actors.calls_per_bot", ["1", "1000"], ["0", "1001"]),
    ("actors.rate_per_bot", ["0", "100000"], ["-1", "100001"]),
    ("actors.waiting_per_bot", ["1", "100000"], ["0", "100001"]),
    ("actors.bots_cached", ["1", "1000000"], ["0", "1000001"]),
    ("actors.mailbox_log_interval", ["'100ms'", "'1h'"], ["'99ms'", "'1h 1ns'"]),
    ("http.timeout", ["'1ms'", "'10m'"], ["'999us'", "'10m 1ns'"]),
    ("http.connect_timeout", ["'1ms'", "'10s'"], ["'999us'", "'10s 1ns'"]),
    ("http.max_calls", ["1", "100000"], ["0", "100001"]),
    ("http.max_response_bytes", ["1", "16777216"], ["0", "16777217"]),
    ("retry.max_retries", ["0", "100"], ["-1", "101"]),
    ("retry.initial_delay", ["'0s'", "'1d'"], ["'-1s'", "'1d 1ns'"]),
    ("retry.multiplier", ["1.0", "10"], ["0.99", "10.01"]),
    ("retry.max_delay", ["'0s'", "'1d'"], ["'-1s'", "'1d 1ns'"]),
    ("retry.jitter", ["0", "1.0"], ["-0.01", "1.01"]),
    ("retry.give_up_after", ["'0s'", "'30d'"], ["'-1s'", "'30d 1ns'"]),
    ("breaker.failures", ["1", "1000000"], ["0", "1000001"]),
    ("breaker.open", ["'1ms'", "'1d'"], ["'999us'", "'1d 1ns'"]),
    ("breaker.max_open", ["'1ms'", "'1d'"], ["'0s'", "'1d 1ns'"]),
    ("egress.ports", ["[1]", "[65535]"], ["[0]", "[65536]"]),
    ("reply.in_flight", ["1", "1000"], ["0", "1001"]),
    ("reply.give_up_after", ["'0s'", "'30d'"], ["'-1s'", "'30d 1ns'"]),
    ("flag.batch_rows", ["1", "10000"], ["0", "10001"]),
    ("flag.batch_age", ["'0s'", "'10s'"], ["'-1s'", "'10s 1ns'"]),
    ("drain.deadline", ["'0s'", "'1h'"], ["'-1s'", "'1h 1ns'"]),
    ("history.keep", ["'1m'", "'10years'"], ["'59s'", "'10years 1ns'"]),
];

#[test]
fn each_limit_is_accepted_on_its_edge() {
    for (key, accepted, _) in EDGES {
        for value in accepted {
            assert_eq!(read(&assignment(key, value)).err(), None, "{key} = {value}");
        }
    }
}

#[test]
fn each_limit_is_refused_one_beyond() {
    for (key, _, refused) in EDGES {
        for value in refused {
            let faults = read(&assignment(key, value)).expect_err(key).0;
            assert!(
                matches!(&faults[..], [Fault::Value { key: told, .. }] if told == key),
                "{key} = {value}: {faults:?}"
            );
        }
    }
}

#[test]
fn a_name_has_at_least_one_and_at_most_255_bytes() {
    assert_eq!(valid(&assignment("queue.name", "'q'")).queue.name, "q");
    assert_eq!(read(&assignment("queue.name", &format!("'{}'", "q".repeat(255)))).err(), None);
    told(&assignment("queue.name", &format!("'{}'", "q".repeat(256))));
    assert_eq!(told("[queue]\nname = ''"), "queue.name = \"\": must be a text of 1 to 255 bytes");
}

#[test]
fn the_shipped_file_holds_the_defaults() {
    assert_eq!(valid(SHIPPED), Config::default());
    assert_eq!(valid(""), Config::default());
}

#[test]
fn the_shipped_file_holds_every_key() {
    let shipped = layered(SHIPPED, variables().source(Some(Default::default()))).expect("TOML").cache;
    let shipped = shipped.into_table().expect("sections");
    for section in known_sections() {
        let keys = shipped[section].clone().into_table().expect("keys");
        for key in known_keys(section) {
            assert!(keys.contains_key(key), "{section}.{key} is not in config.toml");
        }
    }
}

fn known_sections() -> Vec<&'static str> {
    match &read("[nonsense]").expect_err("unknown").0[..] {
        [Fault::UnknownSection { known, .. }] => known.clone(),
        faults => panic!("{faults:?}"),
    }
}

fn known_keys(section: &str) -> Vec<&'static str> {
    match &read(&format!("[{section}]\nnonsense = 1")).expect_err("unknown").0[..] {
        [Fault::UnknownKey { known, .. }] => known.clone(),
        faults => panic!("{faults:?}"),
    }
}

#[test]
fn all_faults_are_told_at_once_one_per_line() {
    let file = "
        nonsense = 1
        [queue]
        prefetch = 0
        prefech = 1
        [http]
        timeout = 10
        [egress]
        allow = ['10.0.0.0/8', 'intra net', '10.0.0.0/33']
        [reply]
        to = 'slack'
        [drain]
        deadline = 'soon'
    ";
    let told = told(file);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 8, "{told}");
    assert_eq!(lines[0], "queue.prefetch = 0: must be an integer from 1 to 65535");
    assert!(
        lines[1].starts_with("queue.prefech: unknown key; this section has url, name, prefetch,"),
        "{told}"
    );
    assert_eq!(
        lines[2],
        "http.timeout = 10: must be a duration with its unit, such as \"10s\", from 1ms to 10m"
    );
    assert!(lines[3].starts_with("egress.allow = \"intra net\": must be a network"), "{told}");
    assert!(lines[4].starts_with("egress.allow = \"10.0.0.0/33\": must be a network"), "{told}");
    assert_eq!(lines[5], "reply.to = \"slack\": must be \"log\", \"zulip\" or \"none\"");
    assert!(lines[6].starts_with("drain.deadline = \"soon\": must be a duration"), "{told}");
    assert!(lines[7].starts_with("nonsense: unknown section; the sections are queue, database,"), "{told}");
}

#[test]
fn values_of_other_versions_are_faults() {
    assert_eq!(
        told("[processed]\nvia = 'api'"),
        "processed.via = \"api\": must be \"database\", the only one available"
    );
}

#[test]
fn a_value_in_place_of_a_section_is_a_fault() {
    assert_eq!(told("queue = 'stored:'"), "queue: must be a section, written [queue]");
}

#[test]
fn a_syntax_error_is_one_fault_with_its_place() {
    let told = told("[queue]\nprefetch = = 1\nname = 1");
    assert!(told.starts_with("the configuration file: TOML parse error at line 2, column "), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_password_is_in_no_fault() {
    for file in [
        "[queue]\nurl = 'amqp://user:hunter2@broker:70000'",
        "[queue]\nurl = 'rabbit://user:hunter2@broker'",
        "[queue]\nurl = ['amqp://user:hunter2@broker']",
        "[queue]\nurl = \"amqp://user:hunter2@broker",
        "[queue]\npassword = 'hunter2'",
        "[queue.hunter]\npassword = 'hunter2'",
        "[database]\nurl = 'postgres://user:hun ter2hunter2@host/db'",
        "[database]\nurl = 'postgres://user:/hunter2@host/db'",
        "[reply]\nsite = 'https://user:hunter2@chat.example.org'",
        "[egress]\nallow = ['https://user:hunter2@host']",
        "[egress]\nproxy = 'https://user:hunter2@proxy:4750'",
        "[egress]\nproxy = 'hunter2@proxy:4750'",
        "[egress]\nproxy = 'http://user:hun/ter2hunter2@proxy:4750'",
        "password = 'hunter2'",
    ] {
        let faults = read(file).expect_err(file);
        assert!(!format!("{faults} {faults:?}").contains("hunter2"), "{faults}");
    }
}

#[test]
fn a_password_is_in_no_valid_configuration_that_is_printed() {
    let config = valid(
        "[queue]\nurl = 'amqp://user:hunter2@broker/%2f'\n[database]\nurl = 'postgres://u:hunter2@host/db'\n\
         [egress]\nproxy = 'http://u:hunter2@proxy:4750'",
    );
    let printed = format!("{config:?} {} {}", config.queue.url, config.database.url);
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("amqp://user:***@broker/%2f"), "{printed}");
}

#[test]
fn a_variable_wins_over_the_file() {
    let file = "[queue]\nprefetch = 10\nname = 'from_file'";
    let config = read_with(file, &[("OUTHOOK__QUEUE__PREFETCH", "20"), ("QUEUE__NAME", "ignored")]);
    let queue = config.expect("valid").queue;
    assert_eq!((queue.prefetch, queue.name.as_str()), (20, "from_file"));
}

#[test]
fn every_type_can_be_given_as_a_variable() {
    let config = read_with(
        "",
        &[
            ("OUTHOOK__DATABASE__AUTO_MIGRATE", "false"),
            ("OUTHOOK__RETRY__MULTIPLIER", "2.5"),
            ("OUTHOOK__HTTP__TIMEOUT", "1m 30s"),
            ("OUTHOOK__EGRESS__ALLOW", "10.0.0.0/8, 127.0.0.1"),
            ("OUTHOOK__EGRESS__PORTS", "[80, 443]"),
            ("OUTHOOK__ADMIN__LISTEN", ""),
            ("OUTHOOK__ZULIP__REALM_HOSTS__ACME", "chat.acme.example"),
        ],
    )
    .expect("valid");
    assert!(!config.database.auto_migrate);
    assert!((config.retry.multiplier - 2.5).abs() < f64::EPSILON);
    assert_eq!(config.http.timeout, Duration::from_secs(90));
    assert_eq!(config.egress.allow, networks(["10.0.0.0/8", "127.0.0.1/32"]));
    assert_eq!(config.egress.ports, [80, 443]);
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.zulip.realm_hosts["acme"], "chat.acme.example");
}

#[test]
fn lists_and_tables_can_be_given_as_toml_in_a_variable() {
    let variables = [
        ("OUTHOOK__EGRESS__ALLOW", "[\"10.0.0.0/8\", '::1']"),
        ("OUTHOOK__EGRESS__PORTS", ""),
        ("OUTHOOK__ZULIP__REALM_HOSTS", "{ acme = \"chat.acme.example\" }"),
    ];
    let config = read_with("[egress]\nports = [80]", &variables).expect("valid");
    assert_eq!(config.egress.allow, networks(["10.0.0.0/8", "::1/128"]));
    assert!(config.egress.ports.is_empty());
    assert_eq!(config.zulip.realm_hosts["acme"], "chat.acme.example");
}

#[test]
fn lists_in_variables_may_hold_ipv6_in_brackets() {
    let list = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
    for (text, networks) in [
        ("[::1]:8080", list(&["::1/128:8080"])),
        ("[::1]", list(&["::1/128"])),
        ("[::1]:8080,10.0.0.0/8", list(&["::1/128:8080", "10.0.0.0/8"])),
        (" [::1]:8080 , [fd00::/8] ", list(&["::1/128:8080", "fd00::/8"])),
        ("10.0.0.0/8,[::1]:8080", list(&["10.0.0.0/8", "::1/128:8080"])),
        ("10.0.0.0/8\n::1\n", list(&["10.0.0.0/8", "::1/128"])),
        ("[\"[::1]:8080\", '10.0.0.0/8']", list(&["::1/128:8080", "10.0.0.0/8"])),
        ("[\n  \"::1\",\n]", list(&["::1/128"])),
        ("", vec![]),
        ("  ", vec![]),
        (",", vec![]),
        ("[]", vec![]),
    ] {
        let config = read_with("", &[("OUTHOOK__EGRESS__ALLOW", text)]).expect(text);
        let read: Vec<String> = config.egress.allow.iter().map(ToString::to_string).collect();
        assert_eq!(read, networks, "{text:?}");
    }
    for (text, ports) in
        [("80,443", vec![80, 443]), ("[80, \"443\"]", vec![80, 443]), ("80", vec![80]), ("", vec![])]
    {
        let config = read_with("", &[("OUTHOOK__EGRESS__PORTS", text)]).expect(text);
        assert_eq!(config.egress.ports, ports, "{text:?}");
    }
    for (text, servers) in [
        ("[::1]:53", vec!["[::1]:53"]),
        ("[::1]:53, 127.0.0.1:53", vec!["[::1]:53", "127.0.0.1:53"]),
        ("['[::1]:53']", vec!["[::1]:53"]),
    ] {
        let config = read_with("", &[("OUTHOOK__EGRESS__RESOLVER", text)]).expect(text);
        let servers = servers.into_iter().map(|server| server.parse().expect("an address")).collect();
        assert_eq!(config.egress.resolver, NameServers::Listed(servers), "{text:?}");
    }
}

#[test]
fn tables_in_variables_may_be_pairs() {
    let both = [("acme", "chat.acme.example"), ("v6", "[::1]:8080")];
    for (text, hosts) in [
        ("acme=chat.acme.example,v6=[::1]:8080", &both[..]),
        (" acme = chat.acme.example \n v6 = [::1]:8080 ", &both),
        ("{ acme = \"chat.acme.example\", v6 = \"[::1]:8080\" }", &both),
        ("acme=chat.acme.example", &both[..1]),
        ("", &[]),
        ("{}", &[]),
    ] {
        let config = read_with("", &[("OUTHOOK__ZULIP__REALM_HOSTS", text)]).expect(text);
        let read = config.zulip.realm_hosts.iter().map(|(realm, host)| (realm.as_str(), host.as_str()));
        assert!(read.eq(hosts.iter().copied()), "{text:?}");
    }
    for text in ["chat.acme.example", "acme=", "{ acme", "acme=a b"] {
        let faults = read_with("", &[("OUTHOOK__ZULIP__REALM_HOSTS", text)]).expect_err(text).to_string();
        assert!(faults.contains("zulip.realm_hosts"), "{faults}");
        assert!(faults.contains("(set by OUTHOOK__ZULIP__REALM_HOSTS"), "{faults}");
    }
}

#[test]
fn plain_http_carries_api_keys_to_another_machine_only_if_allowed() {
    let site = |url: &str, more: &str| read(&format!("[reply]\nto = 'zulip'\nsite = '{url}'\n{more}"));
    for url in [
        "https://chat.example.org",
        "http://127.0.0.1:9991",
        "http://127.8.9.1",
        "http://[::1]:9991",
        "http://[::ffff:127.0.0.1]",
        "http://localhost:9991",
        "http://LocalHost./",
    ] {
        assert_eq!(site(url, "").err(), None, "{url}");
    }
    for url in [
        "http://chat.example.org",
        "http://10.0.0.5",
        "http://192.168.0.1:9991",
        "http://[fd00::1]",
        "http://0.0.0.0:9991",
        "http://zulip",
        "http://localhost.example.org",
        "http://notlocalhost",
        "http://zulip.localhost",
    ] {
        let faults = site(url, "").expect_err(url).to_string();
        assert!(faults.starts_with(&format!("reply.site = \"{url}")), "{faults}");
        assert!(faults.ends_with("set reply.allow_plaintext = true"), "{faults}");
        assert_eq!(faults.lines().count(), 1, "{faults}");
        assert_eq!(site(url, "allow_plaintext = true").err(), None, "{url}");
    }
}

#[test]
fn a_misspelled_level_is_no_filter() {
    for filter in [
        "info",
        "OFF",
        "warn,outhook=debug",
        " warn , outhook::daemon=Trace ,",
        "outhook",
        "outhook::actors::queue",
        "zerver.worker.outgoing_webhooks",
        "sqlx=warn",
        "warn,zerver.worker.outgoing_webhooks=info",
    ] {
        assert_eq!(valid(&assignment("log.filter", &format!("'{filter}'"))).log.filter, filter);
    }
    for filter in [
        "",
        " ",
        ",,",
        "inof",
        "warning",
        "3",
        "info,inof",
        "outhook=dbug",
        "outhook=",
        "=debug",
        "a=b=c",
        "outhook=debug=info",
        "info=debug",
        "outhook = debug",
        "outhooks",
        "rustls",
        "info debug",
        "info;debug",
        "info/lunch",
    ] {
        let told = told(&assignment("log.filter", &format!("'{filter}'")));
        assert!(told.starts_with(&format!("log.filter = \"{filter}\": must be a level (off,")), "{told}");
    }
}

#[test]
fn a_fault_in_a_variable_names_it() {
    let variables = [("OUTHOOK__QUEUE__PREFETCH", "many"), ("OUTHOOK__QUEUE__PREFECH", "1")];
    let told = read_with("", &variables).expect_err("faults").to_string();
    let (value, unknown) = told.split_once('\n').expect("two faults");
    assert_eq!(
        value,
        "queue.prefetch = many: must be an integer from 1 to 65535 (set by OUTHOOK__QUEUE__PREFETCH)"
    );
    assert!(unknown.starts_with("queue.prefech: unknown key;"), "{unknown}");
    assert!(unknown.ends_with("(set by OUTHOOK__QUEUE__PREFECH)"), "{unknown}");
}

#[test]
fn a_queue_is_the_database_or_a_broker_with_a_name() {
    assert_eq!(valid("").queue.url, QueueUrl::Stored);
    for url in [
        "amqp://broker",
        "amqp://user:p%40ss@10.0.0.1:5672/%2f",
        "amqps://broker/v?heartbeat=30",
        "amqp://[::1]:5672",
    ] {
        let QueueUrl::Amqp(read) = valid(&assignment("queue.url", &format!("'{url}'"))).queue.url else {
            panic!("{url} is not taken for a broker");
        };
        assert_eq!(read.expose(), url);
    }
    for url in ["", "stored", "amqp://", "amqp:///vhost", "amqp://[::1", "amqp://h?heartbeat=x", "http://h"] {
        told(&assignment("queue.url", &format!("'{url}'")));
    }
}

#[test]
fn a_database_is_a_file_or_a_server() {
    for (url, path) in [
        ("sqlite://outhook.db", "outhook.db"),
        ("sqlite://data/out hook.db", "data/out hook.db"),
        ("sqlite:///var/lib/outhook.db", "/var/lib/outhook.db"),
        ("sqlite://outhook.db?mode=rwc", "outhook.db"),
    ] {
        let read = valid(&assignment("database.url", &format!("'{url}'"))).database.url;
        assert_eq!(read, DatabaseUrl::Sqlite(PathBuf::from(path)), "{url}");
    }
    for url in ["postgres://u:p@host/db", "postgresql://host:5432/db", "postgres:///db?host=/var/run"] {
        let read = valid(&assignment("database.url", &format!("'{url}'"))).database.url;
        assert!(matches!(read, DatabaseUrl::Postgres(_)), "{url}");
    }
    for url in
        ["", "outhook.db", "sqlite:", "sqlite://", "sqlite://:memory:", "sqlite://x?mode=ro", "mysql://h/d"]
    {
        told(&assignment("database.url", &format!("'{url}'")));
    }
}

#[test]
fn replies_to_zulip_need_its_site() {
    assert_eq!(valid("[reply]\nto = 'none'\nsite = 'https://chat.example.org'").reply.to, ReplyTo::None);
    let zulip = valid("[reply]\nto = 'zulip'\nsite = 'https://chat.example.org'").reply.to;
    assert!(matches!(zulip, ReplyTo::Zulip { site } if site.as_str() == "https://chat.example.org/"));
    assert!(told("[reply]\nto = 'zulip'").starts_with("reply.site = \"\": must be set when reply.to is"));
    let told = told("[reply]\nto = 'zulip'\nsite = 'chat.example.org'");
    assert!(told.starts_with("reply.site = \"chat.example.org\": must be an http://"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn tables_of_zulip_need_its_external_host() {
    let file = "[database]\ntables = 'zulip'\n";
    assert!(told(file).starts_with("zulip.external_host = \"\": must be set when database.tables is"));
    let config = valid(&format!("{file}[zulip]\nexternal_host = 'chat.example.org'"));
    assert_eq!(config.database.tables, Tables::Zulip);
    assert_eq!(config.zulip.external_host.as_deref(), Some("chat.example.org"));
    let told = told(&format!("{file}[zulip]\nexternal_host = 'https://chat.example.org'"));
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_realm_host_is_told_by_its_organisation() {
    let told = told("[zulip]\nrealm_hosts = { acme = 'https://acme', other = 'chat.other.example' }");
    assert!(told.starts_with("zulip.realm_hosts.acme = \"https://acme\": must be a host"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_default_connect_timeout_gives_way_to_a_shorter_timeout() {
    assert_eq!(valid("[http]\ntimeout = '2s'").http.connect_timeout, Duration::from_secs(2));
    assert_eq!(
        told("[http]\ntimeout = '2s'\nconnect_timeout = '3s'"),
        "http.connect_timeout = \"3s\": must be at most http.timeout, which is 2s"
    );
}

#[test]
fn a_default_delay_gives_way_to_the_other_one() {
    let delays = |file| {
        let retry = valid(file).retry;
        (retry.initial_delay, retry.max_delay)
    };
    let [short, long] = [Duration::from_millis(100), Duration::from_secs(120)];
    assert_eq!(delays("[retry]\nmax_delay = '100ms'"), (short, short));
    assert_eq!(delays("[retry]\ninitial_delay = '2m'"), (long, long));
    assert_eq!(
        told("[retry]\ninitial_delay = '2m'\nmax_delay = '30s'"),
        "retry.max_delay = \"30s\": must be at least retry.initial_delay, which is 2m"
    );
}

#[test]
fn a_breaker_stays_open_no_shorter_at_most_than_at_first() {
    let times = |file| {
        let breaker = valid(file).breaker;
        (breaker.open, breaker.max_open)
    };
    let [short, long] = [Duration::from_secs(1), Duration::from_secs(120)];
    assert_eq!(times("[breaker]\nmax_open = '1s'"), (short, short));
    assert_eq!(times("[breaker]\nopen = '2m'"), (long, long));
    assert_eq!(times("[breaker]\nopen = '1s'\nmax_open = '1s'"), (short, short));
    assert_eq!(
        told("[breaker]\nopen = '10s'\nmax_open = '9s'"),
        "breaker.max_open = \"9s\": must be at least breaker.open, which is 10s"
    );
}

#[test]
fn a_faulty_value_causes_no_second_fault() {
    for file in [
        "[http]\ntimeout = 1\nconnect_timeout = '1m'",
        "[retry]\ninitial_delay = '2m'\nmax_delay = 1",
        "[retry]\ninitial_delay = 1\nmax_delay = '1ms'",
    ] {
        assert_eq!(read(file).expect_err(file).0.len(), 1, "{file}");
    }
}

#[test]
fn an_empty_text_turns_an_option_off() {
    assert_eq!(valid("").admin.listen, Some(SocketAddr::from(([127, 0, 0, 1], 9464))));
    let config = valid("[admin]\nlisten = ''\ntoken_file = '/run/token'");
    assert_eq!(config.admin.listen, None);
    assert_eq!(config.admin.token_file, Some(PathBuf::from("/run/token")));
    assert!(
        told("[admin]\nlisten = 'localhost:9464'").starts_with("admin.listen = \"localhost:9464\": must be")
    );
}

#[test]
fn a_pool_of_no_size_has_one_actor_per_core() {
    assert!((1..=64).contains(&valid("").actors.event_pool_size()));
    assert_eq!(valid("[actors]\nevent_pool = 3").actors.event_pool_size(), 3);
}

#[test]
fn only_a_file_that_was_asked_for_must_be_there() {
    let missing = Path::new("no-such-folder/no-such-file.toml");
    assert!(matches!(Config::load(missing, true), Err(ConfigError::Unreadable { .. })));
    assert_eq!(super::source::text(missing, false).expect("empty"), "");
}

/// What `egress.allow` with this one entry opens, as it is told.
fn opened(entry: &str) -> String {
    let egress = valid(&assignment("egress.allow", &format!("['{entry}']"))).egress;
    let networks = egress.allow.iter().map(ToString::to_string);
    networks.chain(egress.hosts.iter().map(ToString::to_string)).collect()
}

#[test]
fn networks_addresses_and_hosts_may_be_allowed_with_a_port_or_without() {
    for (entry, opens) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8:8080", "10.0.0.0/8:8080"),
        ("10.0.0.5", "10.0.0.5/32"),
        ("10.0.0.5:8080", "10.0.0.5/32:8080"),
        ("::1", "::1/128"),
        ("::1:8080", "::1:8080/128"),
        ("[::1]:8080", "::1/128:8080"),
        ("[::1]", "::1/128"),
        ("[fd00::/8]", "fd00::/8"),
        ("[fd00::/8]:65535", "fd00::/8:65535"),
        ("fd00::/8:65535", "fd00::/8:65535"),
        ("::/0", "::/0"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("[::ffff:10.1.2.3]:8080", "10.1.2.3/32:8080"),
        ("Bot.Internal.", "bot.internal"),
        ("bot.internal:1", "bot.internal:1"),
        ("bücher.example", "xn--bcher-kva.example"),
    ] {
        assert_eq!(opened(entry), opens, "{entry}");
    }
}

#[test]
fn a_network_that_may_be_meant_otherwise_is_refused_with_what_to_write() {
    let both = |alone, whole| {
        format!("\"{alone}\" for that address alone, or \"{whole}\" for the whole network that it is in")
    };
    for (entry, must_be) in [
        ("10.0.0.7/8", both("10.0.0.7/32", "10.0.0.0/8")),
        ("10.0.0.7/8:8080", both("10.0.0.7/32:8080", "10.0.0.0/8:8080")),
        ("fd00::1/8", both("fd00::1/128", "fd00::/8")),
        ("[fd00::1/8]", both("fd00::1/128", "fd00::/8")),
        ("[fd00::1/8]:8080", both("fd00::1/128:8080", "fd00::/8:8080")),
        ("::ffff:10.0.0.7/104", both("10.0.0.7/32", "10.0.0.0/8")),
        (
            "::ffff:10.0.0.0/8",
            "written as IPv4, such as \"10.0.0.0/32\" for that address alone: the prefix of an IPv4-mapped \
             network is at least 96"
                .to_owned(),
        ),
    ] {
        let told = told(&assignment("egress.allow", &format!("['{entry}']")));
        assert_eq!(told, format!("egress.allow = \"{entry}\": must be {must_be}"));
    }
    let variable = [("OUTHOOK__EGRESS__ALLOW", "10.0.0.7/8")];
    let told = read_with("", &variable).expect_err("host bits").to_string();
    assert!(told.ends_with("(set by OUTHOOK__EGRESS__ALLOW)"), "{told}");
}

#[test]
fn what_no_host_can_be_called_may_not_be_allowed() {
    for entry in [
        "",
        "10.0.0.0/33",
        "127.1",
        "0x7f.1",
        "１２７.0.0.1",
        "%31%32%37.0.0.1",
        "127.0.0.1:0",
        "bot.internal:65536",
        "bot.internal:",
        "bot.internal:http",
        "[]",
        "[::1",
        "[[::1]]",
        "[::1]8080",
        "[10.0.0.5]:8080",
        "[bot.internal]",
        "[bot.internal]:8080",
        "*.internal",
        ".internal",
        "bot..internal",
        "http://bot.internal",
        "bot.internal/hook",
        "user@bot.internal",
        "fe80::1%eth0",
    ] {
        let told = told(&assignment("egress.allow", &format!("['{entry}']")));
        assert!(told.contains("must be a network such as"), "{entry}: {told}");
    }
}

#[test]
fn names_are_looked_up_by_the_system_or_by_servers_of_ones_own() {
    let resolver = |value| valid(&assignment("egress.resolver", value)).egress.resolver;
    assert_eq!(valid("").egress.resolver, NameServers::System);
    for system in ["'system'", "['system']", "[]"] {
        assert_eq!(resolver(system), NameServers::System, "{system}");
    }
    let servers = ["127.0.0.1:5353", "[::1]:53"].map(|server| server.parse().expect("an address"));
    assert_eq!(resolver("['127.0.0.1:5353', '[::1]:53']"), NameServers::Listed(servers.to_vec()));
    assert_eq!(resolver("'127.0.0.1:5353'"), NameServers::Listed(servers[..1].to_vec()));
    for value in [
        "'dns.google'",
        "'127.0.0.1'",
        "['127.0.0.1']",
        "['127.0.0.1:0']",
        "['system', '127.0.0.1:53']",
        "['dns.google:53']",
        "53",
        "true",
    ] {
        let told = told(&assignment("egress.resolver", value));
        assert!(told.contains("\"system\", or name servers with their ports"), "{value}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_proxy_is_an_http_url_and_nothing_else() {
    assert_eq!(valid("").egress.proxy, None);
    assert_eq!(valid("[egress]\nproxy = ''").egress.proxy, None);
    for url in ["http://127.0.0.1:4750", "http://[::1]:4750/", "http://proxy", "http://u:p%40ss@proxy:3128"] {
        let proxy = valid(&assignment("egress.proxy", &format!("'{url}'"))).egress.proxy;
        assert_eq!(proxy.expect(url).expose(), url);
    }
    for url in [
        "https://proxy:4750",
        "socks5://proxy:1080",
        "proxy:4750",
        "127.0.0.1:4750",
        "http://",
        "http://:4750",
        "http://proxy:0",
        "http://proxy:65536",
        "http://proxy:4750/path",
        "http://proxy:4750?query",
        "http://proxy:4750#fragment",
        "http://proxy :4750",
    ] {
        let told = told(&assignment("egress.proxy", &format!("'{url}'")));
        assert!(told.contains("must be the http:// URL of a proxy, such as"), "{url}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_file_of_authorities_is_a_path() {
    assert_eq!(valid("").egress.ca_file, None);
    let config = valid("[egress]\nca_file = '/etc/outhook/ca.pem'");
    assert_eq!(config.egress.ca_file, Some(PathBuf::from("/etc/outhook/ca.pem")));
}
