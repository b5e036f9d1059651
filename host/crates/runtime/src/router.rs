//! Which component a path belongs to: the one with the longest route that is a prefix of it.

use std::sync::Arc;

use crate::dispatch::Target;

/// The routes. Immutable. A part of what is published, so that they change together with what they lead to.
#[derive(Debug, Default)]
pub(crate) struct Router {
    /// Longest first; none ends with `/`, so that the root is empty.
    routes: Vec<(String, Target)>,
}

impl Router {
    /// Routes, each a path prefix that begins with `/`, to the namespaces that serve them.
    pub(crate) fn new<'a>(routes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut routes: Vec<_> = routes
            .into_iter()
            .map(|(route, namespace)| (route.trim_end_matches('/').to_owned(), Target::Namespace(Arc::from(namespace))))
            .collect();
        routes.sort_by_key(|(route, _)| std::cmp::Reverse(route.len()));
        Self { routes }
    }

    /// A router of its own for a worker, so that its references are counted apart from those of others.
    pub(crate) fn copy(&self) -> Self {
        let copy = |target: &Target| match target {
            Target::Namespace(namespace) => Target::Namespace(Arc::from(&**namespace)),
            Target::Instance { namespace, name } => {
                Target::Instance { namespace: Arc::from(&**namespace), name: Arc::from(&**name) }
            }
        };
        Self { routes: self.routes.iter().map(|(route, target)| (route.clone(), copy(target))).collect() }
    }

    /// Where a request for this path goes. A route matches whole segments: `/api` is not a prefix of `/apis`.
    pub(crate) fn route(&self, path: &str) -> Option<&Target> {
        if !path.starts_with('/') {
            return None;
        }
        let matches =
            |route: &str| path.strip_prefix(route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.routes.iter().find(|(route, _)| matches(route)).map(|(_, target)| target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(router: &Router, path: &str) -> Option<String> {
        router.route(path).map(|target| match target {
            Target::Namespace(name) | Target::Instance { namespace: name, .. } => name.to_string(),
        })
    }

    #[test]
    fn the_longest_route_wins() {
        let router = Router::new([("/", "root"), ("/api", "api"), ("/api/v2/", "v2")]);
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
        let router = Router::new([("/api", "api")]);
        assert_eq!(namespace(&router, "/"), None);
        assert_eq!(namespace(&router, "*"), None);
    }
}
