//! Images from other hosts: only those that the operator named, over plain HTTP, and never into the operator's own network by accident.
//!
//! A server that fetches what strangers name can be sent to places that strangers cannot reach (server-side request forgery, OWASP). So
//! the host must be on the list; its name is resolved once, the addresses are judged, and the connection goes to the very address that
//! was judged; private addresses need to be on the list themselves; redirects stay on the same host and port.

use axum::http::uri::{Authority, Scheme, Uri};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 3;
const ADVICE: &str = "send the image as a data: URL instead";

/// A host and port that images may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    host: String,
    port: u16,
}

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: 80 });
        }
        let expected = || format!("`{text}`: expected a host such as images.example.org, 192.0.2.7 or images.example.org:8080, without http://");
        let authority = Authority::from_str(text).map_err(|_| expected())?;
        if text.contains('@') || text.contains('*') || (text.ends_with(':')) {
            return Err(expected());
        }
        Ok(Self { host: host_name(authority.host()), port: authority.port_u16().unwrap_or(80) })
    }
}

/// Without brackets, in lower case, addresses in their usual form, no dot at the end.
fn host_name(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    host.parse::<IpAddr>().map_or(host, |address| address.to_string())
}

/// A place that may be asked.
#[derive(Debug)]
struct Target {
    at: AllowedHost,
    authority: String,
    path: String,
}

impl Target {
    fn new(url: &str, allowed: &[AllowedHost]) -> Result<Self, String> {
        let uri = Uri::from_str(url).map_err(|_| "the image URL is not a valid http: or data: URL".to_string())?;
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => {
                return Err(format!("https images are not fetched, because the server fetches without TLS; {ADVICE}"));
            }
            _ => return Err("an image URL is a data: URL, or http:// with a host that this server allows".into()),
        }
        let authority = uri.authority().ok_or("the image URL has no host")?;
        if authority.as_str().contains('@') {
            return Err("an image URL must not hold a user name or password".into());
        }
        let at = AllowedHost { host: host_name(authority.host()), port: authority.port_u16().unwrap_or(80) };
        if !allowed.contains(&at) {
            return Err(format!(
                "images of {}:{} are not fetched: the host is not on this server's list (--allow-image-host); {ADVICE}",
                at.host, at.port
            ));
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        Ok(Self { at, authority: authority.to_string(), path })
    }

    /// The first address that may be connected to.
    fn address(&self, allowed: &[AllowedHost]) -> Result<SocketAddr, String> {
        let AllowedHost { host, port } = &self.at;
        let addresses = (host.as_str(), *port).to_socket_addrs().map_err(|e| format!("the image host {host} cannot be resolved: {e}"))?;
        let may = |address: &SocketAddr| is_public(address.ip()) || allowed.contains(&AllowedHost { host: address.ip().to_string(), port: *port });
        let found = addresses.into_iter().find(may);
        found.ok_or_else(|| format!("the image host {host} is in a private network; the server's operator would have to allow that address itself"))
    }
}

/// Get a file of at most `max_bytes` within `timeout`, redirects included. The error is for the client. Blocks.
pub fn fetch(url: &str, allowed: &[AllowedHost], max_bytes: usize, timeout: Duration) -> Result<Vec<u8>, String> {
    if allowed.is_empty() && url.starts_with("http:") {
        return Err(format!("this server fetches no images (it was started without --allow-image-host); {ADVICE}"));
    }
    let mut target = Target::new(url, allowed)?;
    let end = Instant::now() + timeout;
    let address = target.address(allowed)?;
    for _ in 0..=MAX_REDIRECTS {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match get(&target, address, left, max_bytes)? {
            Answer::File(bytes) => return Ok(bytes),
            Answer::Redirect(location) => target = follow(target, &location, allowed)?,
        }
    }
    Err(format!("the image host redirects more than {MAX_REDIRECTS} times"))
}

enum Answer {
    File(Vec<u8>),
    Redirect(String),
}

fn get(target: &Target, address: SocketAddr, left: Duration, max_bytes: usize) -> Result<Answer, String> {
    let failed = |e: ureq::Error| match e {
        ureq::Error::Timeout(_) => "the image host took too long to send the image".into(),
        ureq::Error::BodyExceedsLimit(_) => format!("the image is larger than {max_bytes} bytes, the limit of this server"),
        e => format!("the image could not be fetched: {e}"),
    };
    let config = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).proxy(None).timeout_global(Some(left)).build();
    // The address that was judged, not the name, which may resolve to something else by now.
    let request = ureq::Agent::from(config).get(format!("http://{address}{}", target.path)).header("host", &target.authority);
    let mut response = request.header("accept", "image/png, image/jpeg, image/webp").call().map_err(failed)?;
    let status = response.status();
    if status.is_redirection() {
        let location = response.headers().get("location").and_then(|l| l.to_str().ok());
        return location.map(|l| Answer::Redirect(l.to_string())).ok_or_else(|| format!("the image host answers {status} without a place"));
    }
    if !status.is_success() {
        return Err(format!("the image host answers {status}"));
    }
    response.body_mut().with_config().limit(max_bytes as u64).read_to_vec().map(Answer::File).map_err(failed)
}

fn follow(target: Target, location: &str, allowed: &[AllowedHost]) -> Result<Target, String> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Ok(Target { path: location.split('#').next().unwrap_or_default().to_string(), ..target });
    }
    match Target::new(location, allowed) {
        Ok(next) if next.at == target.at => Ok(next),
        _ => Err("the image host redirects to another place, which is not followed".into()),
    }
}

/// Addresses of the public internet (IANA special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let special = match v4.octets() {
        [0 | 10 | 127, ..] | [169, 254, ..] | [192, 168, ..] | [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        [100, b, ..] => (64..128).contains(&b),
        [172, b, ..] => (16..32).contains(&b),
        [192, 88, 99, _] => true,
        [198, b, ..] => b == 18 || b == 19,
        [a, ..] => a >= 224,
    };
    !special
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let embedded = |high: u16, low: u16| is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match (a, b) {
        // Mapped, and translated by NAT64 and 6to4: what is inside counts.
        (0, 0) if [c, d, e] == [0; 3] && f == 0xffff => embedded(g, h),
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => embedded(g, h),
        (0x2002, high) => embedded(high, c),
        // Of the global unicast addresses: Teredo and other protocols, documentation.
        (0x2001, second) => second >= 0x200 && second != 0xdb8,
        (0x3fff, second) => second >= 0x1000,
        _ => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> Vec<AllowedHost> {
        list.iter().map(|h| h.parse().unwrap()).collect()
    }

    #[test]
    fn only_hosts_on_the_list_are_asked() {
        let allowed = hosts(&["Images.Example.org", "example.net:8080", "[2001:db8::1]:81", "192.0.2.7"]);
        for url in [
            "http://images.example.org/a.png?x=1",
            "HTTP://IMAGES.example.ORG./",
            "http://example.net:8080",
            "http://[2001:DB8:0::1]:81/x",
            "http://192.0.2.7/",
        ] {
            assert!(Target::new(url, &allowed).is_ok(), "{url}");
        }
        for url in [
            "http://images.example.org:81/",
            "http://example.net/",
            "http://example.org/",
            "http://images.example.org.evil.net/",
            "http://images.example.org@evil.net/",
            "http://user@images.example.org/",
            "http://evil.net/images.example.org",
            "https://images.example.org/",
            "ftp://images.example.org/",
            "file:///etc/passwd",
            "images.example.org/a.png",
            "http://",
            "http:///x",
            "",
        ] {
            assert!(Target::new(url, &allowed).is_err(), "{url}");
        }
        for text in ["http://x", "x/y", "a@b", "*.example.org", "", "x:"] {
            assert!(text.parse::<AllowedHost>().is_err(), "{text}");
        }
    }

    /// If this fails, a stranger can reach services that trust this machine.
    #[test]
    fn private_addresses_are_told_apart() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in
            ["8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_name_does_not_make_a_private_address_public() {
        let by_name = hosts(&["localhost:9"]);
        let target = Target::new("http://localhost:9/x", &by_name).unwrap();
        assert!(target.address(&by_name).unwrap_err().contains("private"));
        // 2130706433 is 127.0.0.1 to the resolver of the system.
        let number = hosts(&["2130706433:9"]);
        assert!(Target::new("http://2130706433:9/", &number).unwrap().address(&number).is_err());
        let both = hosts(&["localhost:9", "127.0.0.1:9"]);
        assert_eq!(target.address(&both).unwrap(), "127.0.0.1:9".parse().unwrap());
    }

    #[test]
    fn redirects_stay_where_they_are() {
        let allowed = hosts(&["a.example", "b.example"]);
        let target = || Target::new("http://a.example/x", &allowed).unwrap();
        assert_eq!(follow(target(), "/y?z#w", &allowed).unwrap().path, "/y?z");
        assert_eq!(follow(target(), "http://A.example:80/y", &allowed).unwrap().path, "/y");
        for elsewhere in ["http://b.example/x", "//b.example/x", "http://127.0.0.1/", "https://a.example/x", "file:///etc/passwd", "y"] {
            assert!(follow(target(), elsewhere, &allowed).is_err(), "{elsewhere}");
        }
    }
}
