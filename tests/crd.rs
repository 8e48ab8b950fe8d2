//! The definitions of the custom resources, walked: everything described, everything bounded, nothing that surprises
//! server-side apply.

use serde_json::Value;
use ubo::api;

/// Calls `visit` with the path and the schema of every field of both definitions.
fn walk(visit: &mut dyn FnMut(&str, &Value)) {
    fn go(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
        visit(path, schema);
        if let Some(properties) = schema["properties"].as_object() {
            for (name, inner) in properties {
                go(&format!("{path}.{name}"), inner, visit);
            }
        }
        if schema["items"].is_object() {
            go(&format!("{path}[]"), &schema["items"], visit);
        }
        if schema["additionalProperties"].is_object() {
            go(&format!("{path}{{}}"), &schema["additionalProperties"], visit);
        }
    }
    for definition in api::definitions().expect("our own schema") {
        let value = serde_json::to_value(&definition).expect("a definition is JSON");
        for version in value["spec"]["versions"].as_array().expect("versions") {
            go(&definition.spec.names.kind, &version["schema"]["openAPIV3Schema"], visit);
        }
    }
}

fn violations(check: impl Fn(&str, &Value) -> bool) -> Vec<String> {
    let (mut seen, mut bad) = (0, Vec::new());
    walk(&mut |path, schema| {
        seen += 1;
        if !check(path, schema) {
            bad.push(path.to_owned());
        }
    });
    assert!(seen > 200, "the walk saw {seen} schemas only");
    bad
}

#[test]
fn every_field_is_described_in_one_paragraph() {
    let bad = violations(|path, schema| {
        let element = path.ends_with("[]") || path.ends_with("{}");
        let text = schema["description"].as_str().unwrap_or_default();
        // Elements of a list of words have their description at the list.
        (element && (schema["type"] == "string" || schema["x-kubernetes-int-or-string"] == true))
            || (text.len() > 10 && !text.contains('\n') && text.ends_with(['.', '`', ')']))
    });
    assert!(bad.is_empty(), "no description, or not one that ends as a sentence: {bad:#?}");
}

#[test]
fn every_string_list_and_map_is_bounded() {
    let bad = violations(|_, schema| match schema["type"].as_str() {
        Some("string") => {
            schema["maxLength"].is_number() || schema["enum"].is_array() || schema["format"] == "date-time"
        }
        Some("array") => schema["maxItems"].is_number() && schema["items"].is_object(),
        Some("object") => {
            schema["properties"].is_object()
                || schema["maxProperties"].is_number()
                || schema["x-kubernetes-preserve-unknown-fields"] == true
        }
        Some("integer" | "boolean") => true,
        _ => schema["x-kubernetes-int-or-string"] == true && schema["maxLength"].is_number(),
    });
    let bad: Vec<_> = bad.iter().filter(|path| !path.ends_with(".metadata")).collect();
    assert!(bad.is_empty(), "unbounded, or of no type: {bad:#?}");
}

#[test]
fn no_null_no_default_and_no_unknown_format() {
    let bad = violations(|_, schema| {
        let known = ["int32", "int64", "date-time"];
        schema["nullable"].is_null()
            && schema["default"].is_null()
            && schema["anyOf"].is_null()
            && schema["oneOf"].is_null()
            && schema["format"].as_str().is_none_or(|format| known.contains(&format))
            && schema["enum"].as_array().is_none_or(|words| words.iter().all(Value::is_string))
    });
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn every_rule_has_a_message() {
    let mut rules = 0;
    walk(&mut |path, schema| {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            rules += 1;
            assert!(rule["message"].as_str().is_some_and(|text| text.len() > 10), "{path}: {rule}");
        }
    });
    assert!(rules > 25, "{rules} rules only");
}

#[test]
fn names_and_columns_are_what_people_type_and_read() {
    let [job, run] = api::definitions().expect("our own schema");
    assert_eq!(job.metadata.name.as_deref(), Some("backupjobs.backup.javy.dev"));
    assert_eq!(run.metadata.name.as_deref(), Some("backupruns.backup.javy.dev"));
    let columns =
        |definition: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
            let columns = definition.spec.versions[0].additional_printer_columns.clone().unwrap_or_default();
            columns
                .into_iter()
                .filter(|column| column.priority.unwrap_or(0) == 0)
                .map(|column| column.name)
                .collect::<Vec<_>>()
        };
    assert_eq!(columns(&job), ["Target", "Schedule", "Phase", "Last success", "Next run", "Size", "Age"]);
    assert_eq!(columns(&run), ["Job", "Phase", "Reason", "Started", "Duration", "Size"]);
    for (definition, short) in [(job, "bj"), (run, "br")] {
        assert_eq!(definition.spec.names.short_names, Some(vec![short.to_owned()]));
        assert_eq!(definition.spec.names.categories, Some(vec!["backup".to_owned()]), "never `all`");
        assert_eq!(definition.spec.scope, "Namespaced");
        assert!(definition.spec.versions[0].subresources.as_ref().is_some_and(|sub| sub.status.is_some()));
    }
}
