//! The operations of the API, by path and method.

use poem::http::Method;
use poem_openapi::OpenApi;

/// Which operations each path has, by method. For the 405, in which poem does not say, and for what has to be known of a
/// request before poem finds its operation.
pub struct Operations(Vec<(Vec<String>, Vec<NamedOperation>)>);

type NamedOperation = (Method, &'static str);

impl Operations {
    /// Those of an API.
    pub fn of<T: OpenApi>() -> Self {
        let paths = T::meta().into_iter().flat_map(|api| api.paths);
        let path = |path: poem_openapi::registry::MetaPath| {
            let segments = path.path.split('/').map(str::to_owned).collect();
            let operation = |operation: poem_openapi::registry::MetaOperation| {
                (operation.method, operation.operation_id.unwrap_or_default())
            };
            (segments, path.operations.into_iter().map(operation).collect())
        };
        Self(paths.map(path).collect())
    }

    fn fitting(&self, path: &str) -> impl Iterator<Item = &(Vec<String>, Vec<NamedOperation>)> {
        let segments: Vec<&str> = path.split('/').collect();
        let same = move |pattern: &[String]| {
            let fits = |(pattern, segment): (&String, &&str)| {
                pattern.starts_with('{') && !segment.is_empty() || pattern == segment
            };
            pattern.len() == segments.len() && pattern.iter().zip(&segments).all(fits)
        };
        self.0.iter().filter(move |(pattern, _)| same(pattern))
    }

    fn at(&self, path: &str) -> impl Iterator<Item = &NamedOperation> {
        self.fitting(path).flat_map(|(_, operations)| operations)
    }

    /// The path as openapi.json has it, without what is in it: `/api/auth/sessions/{id}`.
    pub fn route(&self, path: &str) -> Option<String> {
        // Where two fit, the one without parameters is meant.
        let pattern = |(pattern, _): &(Vec<String>, _)| pattern.join("/");
        self.fitting(path).map(pattern).min_by_key(|pattern| pattern.matches('{').count())
    }

    /// The operation that will answer; HEAD is answered like GET.
    pub fn name(&self, method: &Method, path: &str) -> Option<&'static str> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.at(path).find(|(other, _)| other == method).map(|(_, name)| *name)
    }

    /// What `Allow` says of a path.
    pub fn methods(&self, path: &str) -> String {
        let mut names: Vec<&str> = self.at(path).map(|(method, _)| method.as_str()).collect();
        // The pages beside the API, and HEAD, which poem answers wherever there is a GET.
        if names.is_empty() {
            names.push("GET");
        }
        if names.contains(&"GET") {
            names.push("HEAD");
        }
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Api;

    #[test]
    fn a_405_names_the_methods_of_its_path() {
        let operations = Operations::of::<Api>();
        assert_eq!(operations.methods("/api/auth/login"), "POST");
        assert_eq!(operations.methods("/api/auth/sessions/123"), "DELETE");
        assert_eq!(operations.methods("/api/auth/sessions"), "GET, HEAD");
        assert_eq!(operations.methods("/docs"), "GET, HEAD");
    }

    #[test]
    fn a_route_has_nothing_of_its_request() {
        let operations = Operations::of::<Api>();
        assert_eq!(operations.route("/api/auth/login").as_deref(), Some("/api/auth/login"));
        assert_eq!(operations.route("/api/auth/sessions/asr_secret").as_deref(), Some("/api/auth/sessions/{id}"));
        assert_eq!(operations.route("/asr_secret"), None);
    }

    #[test]
    fn an_operation_is_known_before_it_is_called() {
        let operations = Operations::of::<Api>();
        assert_eq!(operations.name(&Method::POST, "/api/auth/login"), Some("logIn"));
        assert_eq!(operations.name(&Method::DELETE, "/api/auth/sessions/123"), Some("revokeSession"));
        assert_eq!(operations.name(&Method::HEAD, "/api/auth/me"), Some("getMe"));
        assert_eq!(operations.name(&Method::GET, "/api/auth/login"), None);
        assert_eq!(operations.name(&Method::POST, "/api/auth/login/"), None);
        assert_eq!(operations.name(&Method::DELETE, "/api/auth/sessions/"), None);
    }
}
