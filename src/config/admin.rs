//! `[admin]`: the server of health, metrics and event intake.
//!
//! | key | default | allowed |
//! | --- | --- | --- |
//! | `listen` | `"127.0.0.1:9464"` | an IP address with its port, or `""` = off |
//! | `token_file` | `""` | the path of a file that holds the bearer token, or `""` = nothing changes state |

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::section::Section;

const LISTEN: &str = "an IP address with its port, such as \"127.0.0.1:9464\", or \"\" for no admin server";

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admin {
    /// Where the server listens, if there is one.
    pub(crate) listen: Option<SocketAddr>,
    /// A file that holds the token of requests that change state; without it there are none.
    pub(crate) token_file: Option<PathBuf>,
}

impl Admin {
    pub(super) fn read(section: &mut Section) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 9464));
        Self {
            listen: section.optional("listen", Some(listen), LISTEN, |text| text.parse().ok()),
            token_file: section
                .optional("token_file", None, "the path of a file", |text| Some(PathBuf::from(text))),
        }
    }
}
