//! Which component a path belongs to: the one with the longest route that is a prefix of it. And what the path is called in
//! metrics and the log.

use std::cmp::Reverse;
use std::str::FromStr;
use std::sync::Arc;

use crate::dispatch::Target;
use crate::spec::ComponentSpec;

/// The routes. Immutable. A part of what is published, so that they change together with what they lead to.
#[derive(Debug, Default)]
pub(crate) struct Router {
    /// Longest first.
    routes: Vec<Route>,
}

#[derive(Clone, Debug)]
struct Route {
    /// Doesn't end with `/`, so that the root is empty.
    prefix: String,
    target: Target,
    component: Arc<str>,
    /// What some paths are called, the most specific first; all others are called as the component.
    handlers: Vec<(PathPattern, Arc<str>)>,
}

/// Where a request goes, and what it is called.
#[derive(Clone, Debug)]
pub struct Routed {
    /// Where it goes.
    pub target: Target,
    /// The component whose route it is.
    pub component: Arc<str>,
    /// What its path is called.
    pub handler: Arc<str>,
}

/// Paths that are called by one name: one path, or with `/*` at its end everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// With its last `/`, if everything below is meant.
    path: String,
    below: bool,
}

impl Router {
    /// The routes of those that have one.
    pub(crate) fn new<'a>(components: impl IntoIterator<Item = &'a ComponentSpec>) -> Self {
        let mut routes: Vec<_> = components.into_iter().filter_map(Route::of).collect();
        routes.sort_by_key(|route| Reverse(route.prefix.len()));
        Self { routes }
    }

    /// A router of its own for a worker, so that its references are counted apart from those of others.
    pub(crate) fn copy(&self) -> Self {
        Self { routes: self.routes.iter().map(Route::copy).collect() }
    }

    /// Where a request for this path goes.
    pub(crate) fn route(&self, path: &str) -> Option<Routed> {
        if !path.starts_with('/') {
            return None;
        }
        let route = self.routes.iter().find(|route| route.matches(path))?;
        let handler = route.handlers.iter().find(|(pattern, _)| pattern.matches(path));
        let handler = handler.map_or(&route.component, |(_, name)| name);
        Some(Routed { target: route.target.clone(), component: route.component.clone(), handler: handler.clone() })
    }
}

impl Route {
    fn of(spec: &ComponentSpec) -> Option<Self> {
        let handlers = spec.handlers.iter().map(|(name, pattern)| (pattern.clone(), Arc::from(name.as_str())));
        let mut handlers: Vec<_> = handlers.collect();
        handlers.sort_by_key(|(pattern, _)| Reverse(pattern.specificity()));
        Some(Self {
            prefix: spec.route.as_deref()?.trim_end_matches('/').to_owned(),
            target: Target::Namespace(Arc::from(spec.namespace.as_str())),
            component: Arc::from(spec.name.as_str()),
            handlers,
        })
    }

    fn copy(&self) -> Self {
        let copy = |text: &Arc<str>| Arc::from(&**text);
        let target = match &self.target {
            Target::Namespace(namespace) => Target::Namespace(copy(namespace)),
            Target::Instance { namespace, name } => Target::Instance { namespace: copy(namespace), name: copy(name) },
        };
        let handlers = self.handlers.iter().map(|(pattern, name)| (pattern.clone(), copy(name))).collect();
        Self { prefix: self.prefix.clone(), target, component: copy(&self.component), handlers }
    }

    /// A route matches whole segments: `/api` is not a prefix of `/apis`.
    fn matches(&self, path: &str) -> bool {
        path.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl PathPattern {
    fn matches(&self, path: &str) -> bool {
        if self.below { path.starts_with(&self.path) } else { path == self.path }
    }

    /// Of two patterns that match, the greater is the more specific one: it names the path itself, or more of it.
    fn specificity(&self) -> (bool, usize) {
        (!self.below, self.path.len())
    }
}

impl FromStr for PathPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, below) = text.strip_suffix("/*").map_or((text, false), |path| (path, true));
        let root = if below { path.is_empty() } else { path == "/" };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@%".contains(&byte);
        let fine = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed);
        if !root && !path.strip_prefix('/').is_some_and(|segments| segments.split('/').all(fine)) {
            return Err(
                "write a path, or one and \"/*\" for everything below, like \"/items\" or \"/items/*\"".to_owned()
            );
        }
        Ok(Self { path: if below { format!("{path}/") } else { path.to_owned() }, below })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Buckets, HealthCheck, Limits};

    fn component(name: &str, route: Option<&str>, handlers: &[(&str, &str)]) -> ComponentSpec {
        ComponentSpec {
            name: name.to_owned(),
            route: route.map(str::to_owned),
            handlers: handlers.iter().map(|(name, pattern)| ((*name).to_owned(), self::pattern(pattern))).collect(),
            namespace: format!("{name}-space").parse().expect("a namespace"),
            instances: Vec::new(),
            environment: Vec::new(),
            config: Vec::new(),
            outbound: crate::OutboundPolicy::default(),
            buckets: Buckets::default(),
            directories: Vec::new(),
            sockets: Vec::new(),
            limits: Limits::default(),
            health: HealthCheck::default(),
        }
    }

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_longest_route_wins() {
        let routes = [("root", Some("/")), ("api", Some("/api")), ("v2", Some("/api/v2/")), ("none", None)];
        let components = routes.map(|(name, route)| component(name, route, &[]));
        let router = Router::new(&components).copy();
        for (path, expected) in [
            ("/", "root"),
            ("/apis", "root"),
            ("/api", "api"),
            ("/api/", "api"),
            ("/api/v2", "v2"),
            ("/api/v2/x", "v2"),
            ("/api/v22", "api"),
        ] {
            let routed = router.route(path).expect(path);
            assert_eq!((&*routed.component, &*routed.handler), (expected, expected), "{path}");
            assert_eq!(routed.target, Target::Namespace(format!("{expected}-space").into()), "{path}");
        }
    }

    #[test]
    fn a_path_without_a_route_goes_nowhere() {
        let router = Router::new(&[component("api", Some("/api"), &[])]);
        assert!(router.route("/").is_none() && router.route("*").is_none());
    }

    #[test]
    fn a_path_is_called_by_the_most_specific_pattern() {
        let handlers = [("any", "/v1/*"), ("value", "/v1/values/*"), ("values", "/v1/values"), ("x", "/v1/values/x")];
        let router = Router::new(&[component("shop", Some("/"), &handlers)]);
        for (path, expected) in [
            ("/v1/values", "values"),
            ("/v1/values/x", "x"),
            ("/v1/values/y", "value"),
            ("/v1/values/", "value"),
            ("/v1/other", "any"),
            ("/v1", "shop"),
            ("/", "shop"),
        ] {
            assert_eq!(&*router.route(path).expect("a route").handler, expected, "{path}");
        }
    }

    #[test]
    fn patterns_are_paths_or_what_is_below_them() {
        let matches = |text: &str, path: &str| pattern(text).matches(path);
        assert!(matches("/items", "/items") && !matches("/items", "/items/1") && !matches("/items", "/items/"));
        assert!(matches("/items/*", "/items/1/2") && matches("/items/*", "/items/") && !matches("/items/*", "/items"));
        assert!(matches("/*", "/") && matches("/*", "/x") && matches("/", "/") && !matches("/", "/x"));
        for wrong in ["", "items", "*", "/*/x", "/a*", "/a//*", "/a/", "/a b", "/../*"] {
            assert!(wrong.parse::<PathPattern>().is_err(), "{wrong}");
        }
    }
}
