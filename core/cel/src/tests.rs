use serde_json::{Value as Json, json};

use super::*;
use crate::authorizer::{Authorizer, Check, Decision};

fn run(source: &str) -> Result<Json, String> {
    with(source, &json!({}))
}

/// Evaluates with a dynamic variable `object`.
fn with(source: &str, object: &Json) -> Result<Json, String> {
    let environment = Environment::new().variable("object", Declaration::dynamic()).messages();
    let program = compile(source, &environment).map_err(|error| error.to_string())?;
    let budget = Budget::new(OBJECT_LIMIT);
    let value = program
        .evaluate(&[("object", Value::dynamic(object))], &budget)
        .map_err(|error| error.to_string())?;
    value.to_json().map_err(|error| error.to_string())
}

#[track_caller]
fn all_true(sources: &[&str]) {
    for source in sources {
        assert_eq!(run(source), Ok(json!(true)), "{source}");
    }
}

/// Compiles and evaluates with `self` as a schema declares it.
fn with_schema(schema: &Json, value: &Json, source: &str) -> Result<Json, String> {
    let schema = keelson_api::Schema::value_from_crd(schema).unwrap();
    let declaration = Declaration::from_schema(&schema, false, "selfType").unwrap();
    let environment = Environment::new().variable("self", declaration);
    let program = compile(source, &environment).map_err(|error| error.to_string())?;
    let declaration = environment.declaration("self").unwrap();
    let values = [("self", Value::from_json(value, declaration))];
    let result = program.evaluate(&values, &Budget::new(OBJECT_LIMIT)).map_err(|error| error.to_string())?;
    result.to_json().map_err(|error| error.to_string())
}

#[test]
fn the_standard_operators_and_macros_give_what_the_language_says() {
    all_true(&[
        "1 + 2 * 3 == 7",
        "7 / 2 == 3",
        "-7 % 3 == -1",
        "1u + 2u == 3u",
        "1.5 * 2.0 == 3.0",
        "1 < 1.5",
        "2u > 1",
        "'a' + 'b' == 'ab'",
        "b'a' + b'b' == b'ab'",
        "[1] + [2] == [1, 2]",
        "1 in [1, 2]",
        "'a' in {'a': 1}",
        "true || (1 / 0 == 1)",
        "(1 / 0 == 1) || true",
        "!(false && (1 / 0 == 1))",
        "1 == 1 ? true : false",
        "[1, 2, 3].all(x, x > 0)",
        "[1, 2].exists(x, x == 2)",
        "[1, 2].exists_one(x, x == 2)",
        "[1, 2, 3].filter(x, x > 1) == [2, 3]",
        "[1, 2].map(x, x * 2) == [2, 4]",
        "[1, 2].map(x, x > 1, x * 2) == [4]",
        "{'a': 1}.all(k, k == 'a')",
        "{'a': 1, 'b': 2}.size() == 2",
        "{'a': 1}.a == 1",
        "{'a': 1}['a'] == 1",
        "has({'a': 1}.a)",
        "!has({'a': 1}.b)",
        "size('\u{e9}a') == 2",
        "type(1) == int",
        "type('') != int",
        "int('3') == 3",
        "string(1.5) == '1.5'",
        "string(1e30) == '1e+30'",
        "double(2) == 2.0",
        "bool('true')",
        "timestamp('2020-01-02T03:04:05Z').getFullYear() == 2020",
        "duration('1h30m').getMinutes() == 90",
        "timestamp('2020-01-02T00:00:00Z') + duration('24h') == timestamp('2020-01-03T00:00:00Z')",
        "timestamp('2020-01-01T00:00:00Z').getHours('+02:30') == 2",
        "string(duration('90m')) == '5400s'",
        "[1, 2, 3].all(i, v, i + 1 == v)",
        "[5, 6].exists(i, v, i == 1 && v == 6)",
        "[1, 1].existsOne(i, v, i == 0)",
        "[1, 2].transformList(i, v, i * v) == [0, 2]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "['x'].transformMapEntry(i, v, {v: i}) == {'x': 0}",
        "[1, 2].transformList(i, v, v > 1, v) == [2]",
        "cel.bind(x, 3, x * x) == 9",
        "optional.of(1).hasValue()",
        "!optional.none().hasValue()",
        "{'a': 1}.?a.orValue(2) == 1",
        "{'a': 1}.?b.orValue(2) == 2",
        "[1][?1].orValue(5) == 5",
        "{'a': {'b': 1}}.?a.b.value() == 1",
        "optional.of(2).optMap(x, x * 2).value() == 4",
        "[?optional.none(), 1] == [1]",
        "{?'a': optional.none()} == {}",
        "optional.of(1).or(optional.of(2)).value() == 1",
        "[[1, 2], [3]].all(x, x.all(y, y > 0))",
        "math.greatest(1, 5, 3) == 5",
        "math.least([2, 1]) == 1",
        "sets.contains([1, 2], [2])",
        "sets.equivalent([1, 1], [1])",
        "!sets.intersects([1], [2])",
    ]);
}

#[test]
fn texts_lists_quantities_and_addresses_have_their_functions() {
    all_true(&[
        "'tacocat'.charAt(3) == 'o'",
        "'hello mellow'.indexOf('ello', 2) == 7",
        "'hello'.lastIndexOf('l') == 3",
        "'TacoCat'.lowerAscii() == 'tacocat'",
        "'hello hello'.replace('he', 'we', 1) == 'wello hello'",
        "'a b c'.split(' ', 2) == ['a', 'b c']",
        "'abc'.split('') == ['a', 'b', 'c']",
        "['x', 'y'].join('-') == 'x-y'",
        "'tacocat'.substring(0, 4) == 'taco'",
        "'  x '.trim() == 'x'",
        "'gums'.reverse() == 'smug'",
        "'%s has %d of %.2f'.format(['a', 2, 1.5]) == 'a has 2 of 1.50'",
        "'%s'.format([[1, 2]]) == '[1, 2]'",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "'abc'.matches('^a.c$')",
        "'abc 123'.find('[0-9]+') == '123'",
        "'1 2 3'.findAll('[0-9]', 2) == ['1', '2']",
        "[1, 2, 2].isSorted()",
        "[1, 2].sum() == 3",
        "[].sum() == 0",
        "[3, 1].min() == 1",
        "['a', 'b'].indexOf('b') == 1",
        "quantity('1.5Gi').isGreaterThan(quantity('1Gi'))",
        "quantity('500m').add(quantity('500m')).asInteger() == 1",
        "quantity('50k').sub(20) == quantity('49980')",
        "!isQuantity('10 x')",
        "ip('192.168.0.1').family() == 4",
        "ip('::1').isLoopback()",
        "!isIP('1.2.3')",
        "ip.isCanonical('2001:db8::abcd')",
        "!ip.isCanonical('2001:DB8::ABCD')",
        "string(ip('10.0.0.1')) == '10.0.0.1'",
        "cidr('192.168.0.0/24').containsIP('192.168.0.1')",
        "cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16'))",
        "cidr('192.168.1.5/24').masked() == cidr('192.168.1.0/24')",
        "cidr('10.0.0.0/8').prefixLength() == 8",
        "url('https://example.com:80/path?k=a&k=b').getHost() == 'example.com:80'",
        "url('https://example.com/?k=a&k=b').getQuery()['k'] == ['a', 'b']",
        "isURL('/absolute-path')",
        "!isURL('x')",
        "format.dns1123Label().validate('my-name') == optional.none()",
        "format.named('uuid').hasValue()",
        "format.dns1123Label().validate('My').value().size() == 1",
        "semver('1.2.3').compareTo(semver('1.10.0')) == -1",
        "semver('v1.0', true).major() == 1",
        "!isSemver('1.0')",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ]);
}

#[test]
fn what_goes_wrong_says_so() {
    for (source, error) in [
        ("1 / 0 == 1", "division by zero"),
        ("{'a': 1}['b'] == 1", "no such key: b"),
        ("[1][2] == 1", "index out of bounds: 2"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("dyn('a') < 1", "no such overload"),
        ("ip('x').family() == 4", "IP Address \"x\" parse error during conversion from string"),
        ("object.missing == 1", "no such key: missing"),
        ("optional.none().value()", "optional.none() dereference"),
    ] {
        assert_eq!(run(source), Err(error.to_owned()), "{source}");
    }
}

#[test]
fn faults_of_types_show_their_place() {
    for (source, error) in [
        ("foo", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^"),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "'a'.contains(1)",
            "ERROR: <input>:1:13: found no matching overload for 'contains' applied to 'string.(int)'\n | 'a'.contains(1)\n | ............^",
        ),
        (
            "nothing(1)",
            "ERROR: <input>:1:8: undeclared reference to 'nothing' (in container '')\n | nothing(1)\n | .......^",
        ),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        (
            "1 == 1.0",
            "ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, double)'\n | 1 == 1.0\n | ..^",
        ),
        (
            "'a'.matches('(')",
            "ERROR: <input>:1:12: invalid matches argument\n | 'a'.matches('(')\n | ...........^",
        ),
        (
            "1.all(x, true)",
            "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | 1.all(x, true)\n | ^",
        ),
    ] {
        assert_eq!(run(source), Err(error.to_owned()), "{source}");
    }
    assert!(
        run("1 +").unwrap_err().starts_with("ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>'")
    );
}

#[test]
fn a_schema_gives_types_formats_and_names() {
    let schema = json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "ratio": {"type": "number"}, "when": {"type": "string", "format": "date-time"},
        "day": {"type": "string", "format": "date"}, "wait": {"type": "string", "format": "duration"},
        "data": {"type": "string", "format": "byte"}, "port": {"x-kubernetes-int-or-string": true},
        "a.b-c/d": {"type": "string"}, "namespace": {"type": "string"}, "x__y": {"type": "string"},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
        "nothing": {"type": "string", "nullable": true}, "any": {"x-kubernetes-preserve-unknown-fields": true},
    }});
    let value = json!({
        "replicas": 3, "ratio": 1, "when": "2020-01-01T00:00:00Z", "day": "2020-01-01", "wait": "1h", "data": "AQI=",
        "port": "http", "a.b-c/d": "x", "namespace": "n", "x__y": "z", "set": ["a", "b"],
        "map": [{"k": "a", "v": 1}, {"k": "b", "v": 2}], "nothing": null,
    });
    for source in [
        "self.replicas == 3",
        "self.ratio == 1.0",
        "self.ratio < 2",
        "self.when == timestamp('2020-01-01T00:00:00Z')",
        "self.day == timestamp('2020-01-01T00:00:00Z')",
        "self.wait == duration('60m')",
        "self.data == b'\\001\\002'",
        "type(self.port) == string ? self.port == 'http' : self.port > 1",
        "self.a__dot__b__dash__c__slash__d == 'x'",
        "self.__namespace__ == 'n'",
        "self.x__underscores__y == 'z'",
        "self.set == ['b', 'a']",
        "self.set + ['b', 'c'] == ['a', 'b', 'c']",
        "(self.map + self.map).size() == 2",
        "!has(self.nothing)",
        "self.map.exists(it, it.k == 'b' && it.v == 2)",
    ] {
        assert_eq!(with_schema(&schema, &value, source), Ok(json!(true)), "{source}");
    }
    let fault = with_schema(&schema, &value, "self.any == 1").unwrap_err();
    assert_eq!(fault, "ERROR: <input>:1:5: undefined field 'any'\n | self.any == 1\n | ....^");
}

#[test]
fn an_expensive_evaluation_is_ended() {
    let long: Vec<i64> = (0..2000).collect();
    let object = json!({"list": long});
    let error = with("object.list.all(x, object.list.all(y, x + y >= 0))", &object).unwrap_err();
    assert_eq!(error, "operation cancelled: actual cost limit exceeded");
    // No other side of an operator makes up for it.
    let error = with("object.list.all(x, object.list.all(y, x + y >= 0)) || true", &object).unwrap_err();
    assert_eq!(error, "operation cancelled: actual cost limit exceeded");
    let program = compile("[1, 2, 3].all(x, x > 0)", &Environment::new()).unwrap();
    assert_eq!(program.evaluate(&[], &Budget::new(5)).unwrap_err(), EvalError::Budget);
}

#[test]
fn a_walk_over_a_list_costs_as_much_as_what_is_in_it() {
    let cost = |source: &str, object: &Json| {
        let environment = Environment::new().variable("object", Declaration::dynamic());
        let program = compile(source, &environment).unwrap();
        let runs =
            |limit| program.evaluate(&[("object", Value::dynamic(object))], &Budget::new(limit)).is_ok();
        (0..10_000).find(|limit| runs(*limit)).unwrap()
    };
    // The variable and its field cost one each.
    assert_eq!(cost("object.list.max()", &json!({"list": [1, 2, 3]})), 2 + 3);
    assert_eq!(
        cost("object.list.indexOf('a')", &json!({"list": ["x".repeat(100), "y".repeat(59)]})),
        2 + 10 + 5
    );
    assert_eq!(cost("object.list.isSorted()", &json!({"list": ["a", "b"]})), 2 + 2);
    assert_eq!(cost("object.list.indexOf('a')", &json!({"list": ["", "", ""]})), 2 + 3);
    assert_eq!(cost("object.text.indexOf('a')", &json!({"text": "x".repeat(59)})), 2 + 5);
}

#[test]
fn objects_and_patches_are_made() {
    let made = run("Object{spec: Object.spec{replicas: 3, ?none: optional.none()}}").unwrap();
    assert_eq!(made, json!({"spec": {"replicas": 3}}));
    let made = run("[JSONPatch{op: 'add', path: '/a', value: {'x': [1]}}]").unwrap();
    assert_eq!(made, json!([{"op": "add", "path": "/a", "value": {"x": [1]}}]));
    let environment = Environment::new().messages();
    let program = compile("Object{spec: Object.metadata{list: [Object.spec.list{}]}}", &environment).unwrap();
    let made = program.evaluate(&[], &Budget::new(OBJECT_LIMIT)).unwrap();
    let fault = "unexpected type name \"Object.metadata\", expected \"Object.spec\", which matches field name path from root Object type";
    assert_eq!(made.misnamed(), [fault]);
    assert_eq!(compile("[JSONPatch{op: 'add'}]", &environment).unwrap().ty().full_name(), "list(JSONPatch)");
    assert!(compile("jsonpatch.escapeKey('a')", &Environment::new()).is_err());
    assert!(run("JSONPatch{op: 1}").unwrap_err().contains("expected type of field 'op' is 'string'"));
}

#[derive(Debug)]
struct Rules;

impl Authorizer for Rules {
    fn decide(&self, check: &Check) -> Option<Decision> {
        let allowed = check.resource == "deployments" && check.verb == "create" && check.name != "forbidden";
        (check.group != "unknown").then(|| Decision { allowed, reason: "by rule".into(), error: None })
    }

    fn request_resource(&self) -> Check {
        Check { group: "apps".into(), resource: "deployments".into(), ..Check::default() }
    }
}

#[test]
fn the_authorizer_is_asked() {
    let environment = Environment::new().authorizer();
    let ask = |source: &str| {
        let program = compile(source, &environment).unwrap();
        program
            .evaluate(&[("authorizer", Value::authorizer(&Rules))], &Budget::new(OBJECT_LIMIT))
            .map(|it| it.is_true())
    };
    assert_eq!(
        ask("authorizer.group('apps').resource('deployments').namespace('n').check('create').allowed()"),
        Ok(true)
    );
    assert_eq!(ask("authorizer.requestResource.name('forbidden').check('create').allowed()"), Ok(false));
    assert_eq!(
        ask("authorizer.serviceAccount('n', 'sa').group('apps').resource('x').check('get').reason() == 'by rule'")
            .ok(),
        Some(true)
    );
    assert!(matches!(
        ask("authorizer.group('unknown').resource('x').check('get').allowed()"),
        Err(EvalError::Undecided(_))
    ));
}

#[test]
fn a_deep_or_long_expression_is_a_fault_and_no_crash() {
    let sum = format!("1{} > 0", " + 1".repeat(5000));
    assert!(run(&sum).unwrap_err().contains("nests deeper"));
    let brackets = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(run(&brackets).is_err());
    assert!(run(&format!("{}true", "!".repeat(5000))).is_ok());
    assert!(run(&"a".repeat(200_000)).is_err());
}

#[test]
fn named_expressions_are_evaluated_once_and_only_when_they_are_looked_at() {
    let environment = Environment::new().variable("object", Declaration::dynamic());
    let mut composition = Composition::default();
    composition.add("items", "object.items.filter(x, x > 1)", &environment).unwrap();
    composition.add("many", "variables.items.size() > 1", &environment).unwrap();
    composition.add("faulty", "object.nothing", &environment).unwrap();
    assert!(
        composition
            .add("late", "variables.later", &environment)
            .unwrap_err()
            .to_string()
            .contains("undefined field 'later'")
    );
    let program = compile(
        "variables.many && variables.many && variables.items[0] == 2",
        &composition.environment(&environment),
    )
    .unwrap();
    let object = json!({"items": [1, 2, 3]});
    let budget = Budget::new(1000);
    let values = composition.values(vec![("object", Value::dynamic(&object))], &budget);
    assert!(program.evaluate(&values.bindings(), &budget).unwrap().is_true());
    assert!(budget.left() > 900, "{}", budget.left());
}
