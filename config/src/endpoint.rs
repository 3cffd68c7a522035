//! The URL of a server, as far as it says where the server is.

/// Where a server is: scheme, host and port of a URL, and nothing behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it uses TLS.
    pub tls: bool,
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl Endpoint {
    /// Reads `https://HOST:PORT` or `http://HOST:PORT`. An IPv6 address stands in brackets.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':')?;
        let bare = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok())?,
            None => host,
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_name = !host.is_empty() && host.bytes().all(is_plain);
        let tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (is_name || bare != host).then(|| Self { tls, host: bare.to_owned(), port })
    }
}
