//! Which component a path belongs to: the one with the longest route that is a prefix of it. And what the path is called
//! in metrics and the log.

use std::cmp::Reverse;
use std::sync::Arc;

use runtime::Target;

use crate::metrics::Handler;
use crate::value::Pattern;

/// The routes. Immutable.
#[derive(Default)]
pub(crate) struct Router {
    /// Longest first.
    routes: Vec<Route>,
}

/// Where the requests below a path go.
pub(crate) struct Route {
    /// Doesn't end with `/`, so that the root is empty.
    prefix: String,
    /// The namespace that serves them.
    pub(crate) target: Target,
    /// The component whose route it is.
    pub(crate) component: Arc<str>,
    /// What some paths are called; the most specific first.
    handlers: Vec<(Pattern, Arc<Handler>)>,
    /// What all others are called.
    fallback: Arc<Handler>,
}

impl Route {
    /// The route of a component: `prefix` begins with `/`.
    pub(crate) fn new(
        prefix: &str,
        namespace: &str,
        component: &str,
        mut handlers: Vec<(Pattern, Arc<Handler>)>,
        fallback: Arc<Handler>,
    ) -> Self {
        handlers.sort_by_key(|(pattern, _)| Reverse(pattern.specificity()));
        Self {
            prefix: prefix.trim_end_matches('/').to_owned(),
            target: Target::Namespace(Arc::from(namespace)),
            component: component.into(),
            handlers,
            fallback,
        }
    }

    /// What a path of this route is called.
    pub(crate) fn handler(&self, path: &str) -> &Arc<Handler> {
        let matching = self.handlers.iter().find(|(pattern, _)| pattern.matches(path));
        matching.map_or(&self.fallback, |(_, handler)| handler)
    }

    /// A route matches whole segments: `/api` is not a prefix of `/apis`.
    fn matches(&self, path: &str) -> bool {
        path.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Router {
    pub(crate) fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        let mut routes: Vec<_> = routes.into_iter().collect();
        routes.sort_by_key(|route| Reverse(route.prefix.len()));
        Self { routes }
    }

    /// Where a request for this path goes.
    pub(crate) fn route(&self, path: &str) -> Option<&Route> {
        if !path.starts_with('/') {
            return None;
        }
        self.routes.iter().find(|route| route.matches(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(name: &str) -> Arc<Handler> {
        Arc::new(Handler::new(name, 1))
    }

    fn router<'a>(routes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Router {
        Router::new(routes.into_iter().map(|(path, name)| Route::new(path, name, name, Vec::new(), handler(name))))
    }

    fn namespace(router: &Router, path: &str) -> Option<String> {
        router.route(path).map(|route| match &route.target {
            Target::Namespace(name) | Target::Instance { namespace: name, .. } => name.to_string(),
        })
    }

    #[test]
    fn the_longest_route_wins() {
        let router = router([("/", "root"), ("/api", "api"), ("/api/v2/", "v2")]);
        for (path, expected) in [
            ("/", "root"),
            ("/apis", "root"),
            ("/api", "api"),
            ("/api/", "api"),
            ("/api/v2", "v2"),
            ("/api/v2/x", "v2"),
            ("/api/v22", "api"),
        ] {
            assert_eq!(namespace(&router, path).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_path_without_a_route_goes_nowhere() {
        let router = router([("/api", "api")]);
        assert_eq!(namespace(&router, "/"), None);
        assert_eq!(namespace(&router, "*"), None);
    }

    #[test]
    fn a_path_is_called_by_the_most_specific_pattern() {
        let handlers = [("/v1/*", "any"), ("/v1/values/*", "value"), ("/v1/values", "values"), ("/v1/values/x", "x")];
        let handlers = handlers.map(|(pattern, name)| (pattern.parse().expect("a pattern"), handler(name)));
        let route = Route::new("/", "shop", "shop", handlers.into(), handler("shop"));
        for (path, expected) in [
            ("/v1/values", "values"),
            ("/v1/values/x", "x"),
            ("/v1/values/y", "value"),
            ("/v1/values/", "value"),
            ("/v1/other", "any"),
            ("/v1", "shop"),
            ("/", "shop"),
        ] {
            assert_eq!(route.handler(path).name(), expected, "{path}");
        }
    }
}
