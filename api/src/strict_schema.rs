//! What the document says of JSON bodies beyond what poem-openapi's derive says of them: that we read them strictly. A
//! member that we do not know is refused (`additionalProperties: false`), and one that may be left out may also be null.

use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};

/// Stands for `false`, which the registry cannot say.
const NEVER: &str = "never";
/// How it is printed within a component.
const PRINTED: &str = "\"additionalProperties\": {\n          \"type\": \"never\"\n        }";

/// Puts into the printed document what the registry could not say.
pub fn finish(document: &str) -> String {
    document.replace(PRINTED, "\"additionalProperties\": false")
}

/// Makes a schema strict, and all that it consists of. All are registered already; a second time changes nothing.
pub fn close(registry: &mut Registry, schema: &MetaSchemaRef) {
    match schema {
        MetaSchemaRef::Reference(name) => close_component(registry, name),
        MetaSchemaRef::Inline(schema) => {
            for part in schema.items.as_deref().into_iter().chain(&schema.all_of) {
                close(registry, part);
            }
        }
    }
}

fn close_component(registry: &mut Registry, name: &str) {
    let Some(mut schema) = registry.schemas.get(name).cloned() else { return };
    for part in &schema.one_of {
        close(registry, part);
    }
    // A variant of a union: its tag, and the object it is. A part of allOf would refuse the members of the other part, so
    // they become one object.
    if let [MetaSchemaRef::Inline(tag), MetaSchemaRef::Reference(object)] = &schema.all_of[..]
        && let Some(object) = registry.schemas.get(object)
    {
        let mut joined = (**tag).clone();
        joined.required.extend(&object.required);
        joined.properties.extend(object.properties.iter().cloned());
        schema = MetaSchema { description: object.description, rust_typename: schema.rust_typename, ..joined };
    }
    if schema.ty == "object" && schema.one_of.is_empty() && schema.additional_properties.is_none() {
        let required = schema.required.clone();
        for (name, property) in &mut schema.properties {
            close(registry, property);
            if !required.contains(name) {
                *property = or_null(property.clone());
            }
        }
        schema.additional_properties = Some(Box::new(MetaSchemaRef::Inline(Box::new(MetaSchema::new(NEVER)))));
    }
    registry.schemas.insert(name.to_owned(), schema);
}

fn or_null(schema: MetaSchemaRef) -> MetaSchemaRef {
    let schema = match schema {
        MetaSchemaRef::Inline(schema) => MetaSchema { nullable: true, ..*schema },
        // Beside a reference nothing counts.
        reference => MetaSchema { nullable: true, all_of: vec![reference], ..MetaSchema::ANY },
    };
    MetaSchemaRef::Inline(Box::new(schema))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    fn component<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/")) {
            Some(name) => &document["components"]["schemas"][name],
            None => schema,
        }
    }

    fn check(document: &Value, schema: &Value, checked: &mut Vec<String>) {
        let schema = component(document, schema);
        for part in ["oneOf", "allOf"].iter().filter_map(|part| schema[part].as_array()).flatten() {
            check(document, part, checked);
        }
        let Some(properties) = schema["properties"].as_object() else {
            assert!(schema["additionalProperties"].is_null(), "it would allow nothing at all: {schema}");
            return;
        };
        assert_eq!(schema["additionalProperties"], false, "{schema}");
        let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().flat_map(Value::as_str).collect();
        for (name, property) in properties {
            checked.push(name.clone());
            assert_eq!(property["nullable"].as_bool() == Some(true), !required.contains(&name.as_str()), "{name}");
            check(document, property, checked);
        }
    }

    #[test]
    fn every_json_body_is_closed_and_what_may_be_left_out_may_be_null() {
        let document: Value = serde_json::from_str(&crate::app::document()).unwrap();
        let operations = document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap());
        let mut checked = Vec::new();
        for (_, operation) in operations {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            check(&document, schema, &mut checked);
        }
        for name in ["email", "grantType", "idleTimeoutSeconds", "slug"] {
            assert!(checked.iter().any(|other| other == name), "{name}");
        }
        assert!(!crate::app::document().contains("never\""));
    }
}
