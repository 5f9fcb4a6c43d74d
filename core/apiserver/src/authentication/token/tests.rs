use super::*;

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().unwrap()
}

fn signer() -> Signer {
    Signer::from_pem(&key().serialize_pem()).unwrap()
}

fn claims() -> Claims {
    Claims {
        aud: vec![ISSUER.to_owned(), "vault".to_owned()],
        iat: 1000,
        nbf: 1000,
        exp: 1600,
        iss: ISSUER.to_owned(),
        sub: "system:serviceaccount:a:b".to_owned(),
        ..Claims::default()
    }
}

#[test]
fn a_token_carries_its_claims() {
    let signer = signer();
    assert_eq!(signer.verify(&signer.sign(&claims()).unwrap()), Some(claims()));
}

#[test]
fn a_token_holds_from_its_beginning_to_its_end_and_for_its_audiences() {
    let claims = claims();
    assert_eq!(claims.check(&["vault", "other"], 1100), Ok(vec!["vault".to_owned()]));
    assert_eq!(claims.check(&["vault"], 1700), Err("service account token has expired"));
    assert_eq!(claims.check(&["vault"], 900), Err("service account token is not valid yet"));
    assert!(claims.check(&["other"], 1100).is_err());
    assert!(claims.check(&[], 1100).is_err());
}

#[test]
fn a_token_of_another_key_or_issuer_or_without_signature_is_refused() {
    let signer = signer();
    let token = signer.sign(&claims()).unwrap();
    assert_eq!(self::signer().verify(&token), None);
    let foreign = Claims { iss: "https://elsewhere".to_owned(), ..claims() };
    let foreign = signer.sign(&foreign).unwrap();
    assert_eq!(signer.verify(&foreign), None);
    assert!(signer.is_addressed(&token) && !signer.is_addressed(&foreign));
    let payload = token.split('.').nth(1).unwrap();
    // {"alg":"none"} and {"alg":"HS256"}
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9"] {
        assert_eq!(signer.verify(&format!("{header}.{payload}.")), None);
        assert_eq!(signer.verify(&format!("{header}.{payload}.AAAA")), None);
    }
    for broken in ["", "a", "a.b.c", "....", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
        assert_eq!(signer.verify(broken), None);
        assert!(!signer.is_addressed(broken));
    }
}

#[test]
fn what_a_former_key_has_signed_is_accepted_and_both_keys_are_published() {
    let (old, new) = (key(), key());
    let before = Signer::from_pem(&old.serialize_pem()).unwrap();
    let after = Signer::new(&new.serialize_pem(), &[old.public_key_pem()], Issuance::default()).unwrap();
    let token = before.sign(&claims()).unwrap();
    assert_eq!(after.verify(&token), Some(claims()));
    assert_eq!(after.key_set()["keys"].as_array().unwrap().len(), 2);
    assert_eq!(before.verify(&after.sign(&claims()).unwrap()), None);
}

#[test]
fn a_former_issuer_is_accepted_and_new_tokens_name_the_new_one() {
    let issuance = Issuance { issuers: vec!["https://new".into(), ISSUER.into()], ..Issuance::default() };
    let signer = Signer::new(&key().serialize_pem(), &[], issuance).unwrap();
    assert!(signer.verify(&signer.sign(&claims()).unwrap()).is_some());
    assert_eq!(signer.issuer(), "https://new");
    assert_eq!(signer.discovery()["jwks_uri"], "https://new/openid/v1/jwks");
    let short = Issuance { max_expiration: Some(Duration::from_secs(60)), ..Issuance::default() };
    assert!(matches!(Signer::new(&key().serialize_pem(), &[], short), Err(TokenError::MaxExpiration)));
}
