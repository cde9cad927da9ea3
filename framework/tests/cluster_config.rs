//! The configuration: what wins, what is refused and how it is told, what is never shown.

use duractor::config::{Config, Loader};

fn refused(loader: Loader) -> String {
    loader.load().expect_err("it must be refused").to_string()
}

#[test]
fn the_defaults_are_as_documented() {
    let config = Config::default();
    assert_eq!((config.cluster.shards, config.cluster.replication), (12, 3));
    assert_eq!(config.timing(), duractor_journal::Timing::default());
    let mut log = duractor_journal::LogConfig::new("data/log");
    log.shards = 12;
    assert_eq!(config.log_config(), log, "the log's own defaults");
    assert_eq!(config.origin("cluster.shards"), Some("default"));
    assert_eq!(config.advertised(), "127.0.0.1:7400");
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let file = "[timing]\nheartbeat_ms = 10\nelection_min_ms = 100\nelection_max_ms = 400\n";
    let loader = Loader::new().text("a.toml", file);
    assert_eq!(loader.clone().load().unwrap().timing.election_min_ms, 100);
    let loader = loader.variables([("DURACTOR_TIMING_ELECTION_MIN_MS", "110")]);
    assert_eq!(loader.clone().load().unwrap().timing.election_min_ms, 110);
    let config = loader.set("timing.election_min_ms", "120").load().unwrap();
    assert_eq!((config.timing.heartbeat_ms, config.timing.election_min_ms), (10, 120));
    assert_eq!(config.origin("timing.heartbeat_ms"), Some("a.toml"));
    let explained = config.explain();
    for line in [
        "timing.heartbeat_ms = 10  # a.toml",
        "timing.election_min_ms = 120  # the flag --timing-election-min-ms",
        "node.number = 1  # default",
    ] {
        assert!(explained.contains(line), "{line:?} is not in\n{explained}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let file =
        "[cluster]\nshards = 0\nnmae = \"x\"\n[node]\nnumber = \"3\"\n[log]\nqueue_bytes = 1.5";
    let why = refused(
        Loader::new()
            .text("a.toml", file)
            .variables([("DURACTOR_TIMING_HEARTBEAT_MS", "soon"), ("DURACTOR_NODE_NUMBR", "1")])
            .set("net.listen", "nowhere")
            .file("/does/not/exist.toml"),
    );
    for line in [
        "cluster.shards = 0 (a.toml): allowed are 1 to 256",
        "cluster.nmae (a.toml): there is no such key; is cluster.name meant?",
        "node.number = 3 (a.toml): allowed are 1 to 2147483647",
        "log.queue_bytes = 1.5 (a.toml): allowed are",
        "timing.heartbeat_ms = soon (the variable DURACTOR_TIMING_HEARTBEAT_MS): allowed are 5 to",
        "DURACTOR_NODE_NUMBR (the environment): there is no key",
        "net.listen = nowhere (the flag --net-listen): allowed are HOST:PORT",
        "/does/not/exist.toml",
    ] {
        assert!(why.contains(line), "{line:?} is not in\n{why}");
    }
}

#[test]
fn values_must_fit_each_other() {
    let file = "[timing]\nheartbeat_ms = 100\nelection_min_ms = 200\nelection_max_ms = 200\n\
                [tls]\nca = \"ca.pem\"\n[net]\ninsecure = true\nlisten = \"0.0.0.0:1\"\n";
    let why = refused(Loader::new().text("a.toml", file));
    for line in [
        "timing.election_min_ms = 200 (a.toml): must be at least three heartbeats, 300 or more",
        "timing.election_max_ms = 200 (a.toml): must be more than timing.election_min_ms",
        "tls.ca, tls.cert and tls.key go together",
        "net.insecure = true",
        "net.advertise = 0.0.0.0:1",
    ] {
        assert!(why.contains(line), "{line:?} is not in\n{why}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_name() {
    let why = refused(Loader::new().text("a.toml", "[node\nnumber = 1"));
    assert!(why.contains("a.toml") && why.contains("line 1"), "{why}");
    let why = refused(Loader::new().text("a.toml", "node = 3"));
    assert!(why.contains("node (a.toml): this is a section"), "{why}");
}

#[test]
fn variables_of_a_container_platform_are_let_be() {
    let of_a_service = [
        ("DURACTOR_NODE_SERVICE_HOST", "10.0.0.1"),
        ("DURACTOR_NODE_PORT_7400_TCP", "tcp://10.0.0.1:7400"),
        ("DURACTOR_SEEDS", "a:1"),
        ("DURACTOR_OWN", "1"),
    ];
    assert!(Loader::new().variables(of_a_service).load().is_ok());
}

#[test]
fn lists_come_from_text_and_from_toml() {
    let config = Loader::new().set("discovery.seeds", "a:1, b:2").load().unwrap();
    assert_eq!(config.discovery.seeds, ["a:1", "b:2"]);
    let config = Loader::new().text("a.toml", "discovery.seeds = [\"c:3\"]").load().unwrap();
    assert_eq!(config.discovery.seeds, ["c:3"]);
}

const PEM: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----";

#[test]
fn the_contents_of_a_key_are_never_shown() {
    let texts = [
        refused(Loader::new().set("tls.key", PEM)),
        refused(Loader::new().text("a.toml", format!("[tls]\nkey = '''{PEM}'''"))),
        refused(Loader::new().text("a.toml", format!("[tls]\nkey = {PEM}"))),
        refused(Loader::new().variables([("DURACTOR_TLS_KEY", PEM)])),
    ];
    let mut config = Config::default();
    config.tls.key = PEM.into();
    let shown =
        [format!("{config:?}"), format!("{:?}", config.tls), config.to_string(), config.explain()];
    for text in texts.iter().chain(&shown) {
        assert!(!text.contains("c2VjcmV0"), "{text}");
    }
}

#[cfg(feature = "cli")]
#[test]
fn every_key_has_a_flag() {
    use clap::Parser;
    use duractor::config::{Flags, keys::KEYS};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        node: Flags,
    }
    let help = <Cli as clap::CommandFactory>::command().render_long_help().to_string();
    for key in KEYS {
        assert!(help.contains(&format!("--{}", key.flag())), "{}", key.name);
    }
    let cli = Cli::parse_from(["x", "--node-number", "9", "--discovery-seeds", "a:1,b:2"]);
    let config = cli.node.apply(Loader::new()).load().unwrap();
    assert_eq!((config.node.number, config.discovery.seeds.len()), (9, 2));
}
