//! A command-line flag for every key, to flatten into an application's own.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, error::Error, value_parser};

use super::{
    error::ConfigError,
    keys::{Allowed, KEYS},
    load::Loader,
    sections::Config,
};

/// `--config FILE` and one flag for each key, as `--node-number 2`.
///
/// ```
/// use clap::Parser;
/// use duractor::config::{Flags, Loader};
///
/// #[derive(Parser)]
/// struct Cli {
///     #[command(flatten)]
///     node: Flags,
/// }
///
/// let cli = Cli::parse_from(["orders", "--node-number", "2", "--net-insecure"]);
/// let config = cli.node.apply(Loader::new()).load()?;
/// assert_eq!((config.node.number, config.net.insecure), (2, true));
/// # Ok::<(), duractor::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Flags {
    file: Option<PathBuf>,
    values: Vec<(&'static str, String)>,
}

impl Flags {
    /// Adds the file and the flags to a loader.
    pub fn apply(&self, loader: Loader) -> Loader {
        let loader = match &self.file {
            Some(file) => loader.file(file),
            None => loader,
        };
        self.values.iter().fold(loader, |loader, (key, value)| loader.set(key, value.as_str()))
    }

    /// The configuration from the file, the process's variables and these flags.
    ///
    /// # Errors
    /// [`ConfigError`] with all that is wrong.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let file = match &self.file {
            Some(file) => Loader::new().file(file),
            None => Loader::new(),
        };
        Self { file: None, values: self.values.clone() }.apply(file.environment()).load()
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned().or(self.file.take());
        for key in KEYS {
            if let Some(value) = matches.get_one::<String>(key.name) {
                self.values.push((key.name, value.clone()));
            }
        }
        Ok(())
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("TOML file with the node's configuration");
        let flags = KEYS.iter().map(|key| {
            let arg = Arg::new(key.name)
                .long(key.flag())
                .help(format!("{} [default: {}]", key.help, key.default))
                .help_heading("Node");
            match key.allowed {
                Allowed::Switch => {
                    arg.num_args(0..=1).default_missing_value("true").require_equals(true)
                }
                _ => arg.value_name("VALUE"),
            }
        });
        command.arg(file.help_heading("Node")).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
