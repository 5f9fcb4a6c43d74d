//! Whether some rules allow all that others allow.

use super::rbac::Rule;

fn any(values: &[String], wanted: &str) -> bool {
    values.iter().any(|value| value == "*" || value == wanted)
}

fn path_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

fn resource_covers(rule: &str, wanted: &str) -> bool {
    let subresource = |(_, sub): (&str, &str)| rule.strip_prefix("*/") == Some(sub);
    rule == "*" || rule == wanted || wanted.split_once('/').is_some_and(subresource)
}

impl Rule {
    /// How many rules of one verb on one thing it comes to.
    pub fn size(&self) -> usize {
        let things = self.api_groups.len().saturating_mul(self.resources.len());
        let named = things.saturating_mul(self.resource_names.len().max(1));
        self.verbs.len().saturating_mul(named.saturating_add(self.non_resource_urls.len()))
    }

    /// Splits the rule into rules of one verb on one thing.
    fn atoms(&self) -> Vec<Self> {
        let mut atoms = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                atoms.push(Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let base = Rule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(base);
                        continue;
                    }
                    let names = self.resource_names.iter();
                    atoms.extend(names.map(|name| Rule { resource_names: one(name), ..base.clone() }));
                }
            }
        }
        atoms
    }

    /// Whether this rule alone allows all that the atom allows.
    fn covers(&self, atom: &Self) -> bool {
        let path = |url: &String| self.non_resource_urls.iter().any(|rule| path_matches(rule, url));
        let resource = |wanted: &String| self.resources.iter().any(|rule| resource_covers(rule, wanted));
        let names = self.resource_names.is_empty()
            || (!atom.resource_names.is_empty()
                && atom.resource_names.iter().all(|name| self.resource_names.contains(name)));
        names
            && atom.verbs.iter().all(|verb| any(&self.verbs, verb))
            && atom.non_resource_urls.iter().all(path)
            && atom.api_groups.iter().all(|group| any(&self.api_groups, group))
            && atom.resources.iter().all(resource)
    }

    /// As errors show a rule.
    pub fn describe(&self) -> String {
        let fields = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.non_resource_urls),
            ("Verbs", &self.verbs),
        ];
        let quoted = |values: &[String]| {
            let quoted: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
            quoted.join(" ")
        };
        let shown = fields.iter().filter(|(_, values)| !values.is_empty());
        let parts: Vec<String> =
            shown.map(|(label, values)| format!("{label}:[{}]", quoted(values))).collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// What of `wanted` the rules of `held` do not allow, in the smallest rules.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let atoms = wanted.iter().flat_map(Rule::atoms);
    atoms.filter(|atom| !held.iter().any(|rule| rule.covers(atom))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_rule_is_known_without_splitting_it() {
        let wide: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        let rule = Rule {
            verbs: wide.clone(),
            api_groups: wide.clone(),
            resources: wide.clone(),
            resource_names: wide,
            ..Rule::default()
        };
        assert_eq!(rule.size(), 300_usize.pow(4));
        let small = self::rule(&["", "apps"], &["pods"], &["get", "list", "watch"]);
        assert_eq!((small.size(), small.atoms().len()), (6, 6));
    }

    fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Rule {
        let list = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        Rule { api_groups: list(groups), resources: list(resources), verbs: list(verbs), ..Rule::default() }
    }

    #[test]
    fn what_is_held_piecewise_may_be_granted_as_one_rule() {
        let held = [rule(&[""], &["pods"], &["get"]), rule(&[""], &["pods", "services"], &["list"])];
        assert!(missing(&held, &[rule(&[""], &["pods"], &["get", "list"])]).is_empty());
    }

    #[test]
    fn a_star_is_covered_by_a_star_alone() {
        let held = [rule(&[""], &["pods"], &["get", "list", "watch"])];
        let lacking = missing(&held, &[rule(&[""], &["pods"], &["*"])]);
        assert_eq!(lacking[0].describe(), r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#);
    }

    #[test]
    fn names_do_not_cover_the_whole_resource() {
        let one = Rule { resource_names: vec!["a".into()], ..rule(&[""], &["secrets"], &["get"]) };
        let all = rule(&[""], &["secrets"], &["get"]);
        assert!(missing(std::slice::from_ref(&all), std::slice::from_ref(&one)).is_empty());
        assert_eq!(missing(&[one], std::slice::from_ref(&all)), vec![all]);
    }
}
