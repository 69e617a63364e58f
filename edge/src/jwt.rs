//! The cryptography of JSON Web Tokens (RFC 7518 §3): `ring`, which TLS uses as well, behind the crate `jsonwebtoken`.
//!
//! Invariant: an algorithm takes keys of its own family alone. It must not know what a token says.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{Error as Rejected, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey, Header};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Serialize;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // They make JSON Web Keys of private keys, which nothing here does.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has the crate `jsonwebtoken` use this module in this process; calls after the first change nothing. The crate can check no
/// token before. [`encode`] and [`Auth::new`](crate::auth::Auth::new) do it.
pub fn install() {
    let _ = PROVIDER.install_default();
}

/// A signed token, by HMAC (HS256, HS384, HS512), RS256 or ES256.
///
/// # Errors
/// When the key is not of the header's algorithm, or the claims have no form in JSON.
pub fn encode<T: Serialize>(header: &Header, claims: &T, key: &EncodingKey) -> Result<String, Error> {
    install();
    jsonwebtoken::encode(header, claims, key)
}

/// Refuses keys of another family: a public key must never be taken for a shared secret.
fn matching(algorithm: Algorithm, family: AlgorithmFamily) -> Result<Algorithm, Error> {
    let expected = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => AlgorithmFamily::Hmac,
        Algorithm::RS256 => AlgorithmFamily::Rsa,
        Algorithm::ES256 => AlgorithmFamily::Ec,
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    if family == expected { Ok(algorithm) } else { Err(ErrorKind::InvalidKeyFormat.into()) }
}

/// The hash function of an algorithm with a shared secret.
fn hmac_of(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Ok(Box::new(Signing { algorithm: matching(*algorithm, key.family())?, key: key.clone() }))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    Ok(Box::new(Verifying { algorithm: matching(*algorithm, key.family())?, key: key.clone() }))
}

struct Signing {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer<Vec<u8>> for Signing {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, Rejected> {
        let rejected = |_| Rejected::new();
        let (key, random) = (self.key.as_bytes(), SystemRandom::new());
        if let Some(hash) = hmac_of(self.algorithm) {
            return Ok(hmac::sign(&hmac::Key::new(hash, key), message).as_ref().to_vec());
        }
        match self.algorithm {
            Algorithm::RS256 => {
                let pair = RsaKeyPair::from_der(key).map_err(|_| Rejected::new())?;
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(rejected)?;
                Ok(signature)
            }
            Algorithm::ES256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random);
                let signed = pair.map_err(|_| Rejected::new())?.sign(&random, message);
                Ok(signed.map_err(rejected)?.as_ref().to_vec())
            }
            _ => Err(Rejected::new()),
        }
    }
}

impl JwtSigner for Signing {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

struct Verifying {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for Verifying {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Rejected> {
        let rejected = |_| Rejected::new();
        if let (Some(hash), Ok(secret)) = (hmac_of(self.algorithm), self.key.try_get_as_bytes()) {
            // In constant time, as `ring` documents.
            return hmac::verify(&hmac::Key::new(hash, secret), message, signature).map_err(rejected);
        }
        match (self.algorithm, self.key.kind()) {
            (Algorithm::RS256, DecodingKeyKind::SecretOrDer(der)) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der)
                    .verify(message, signature)
                    .map_err(rejected)
            }
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }
                    .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                    .map_err(rejected)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, signature)
                    .map_err(rejected)
            }
            _ => Err(Rejected::new()),
        }
    }
}

impl JwtVerifier for Verifying {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Validation, decode};
    use serde_json::{Value, json};

    use super::*;

    /// The example of RFC 7515 §A.1: key, token.
    const RFC_KEY: &str =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    const RFC_TOKEN: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

    #[test]
    fn the_example_of_the_standard_is_taken_and_a_changed_one_is_not() {
        install();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        let key: Jwk = serde_json::from_value(json!({"kty": "oct", "k": RFC_KEY})).unwrap();
        let key = DecodingKey::from_jwk(&key).unwrap();
        let claims = decode::<Value>(RFC_TOKEN, &key, &validation).unwrap().claims;
        assert_eq!(claims["iss"], "joe");
        let changed = RFC_TOKEN.replace("dBjft", "dBjfu");
        assert!(decode::<Value>(&changed, &key, &validation).is_err());
        let other = DecodingKey::from_secret(b"another secret of sufficient length");
        assert!(decode::<Value>(RFC_TOKEN, &other, &validation).is_err());
    }

    #[test]
    fn a_public_key_is_no_secret() {
        let key = EncodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
        let claims = json!({"sub": "a"});
        assert!(encode(&Header::new(Algorithm::RS256), &claims, &key).is_err());
        assert!(encode(&Header::new(Algorithm::ES256), &claims, &key).is_err());
        assert!(encode(&Header::new(Algorithm::EdDSA), &claims, &key).is_err());
        assert!(verifier(&Algorithm::HS256, &DecodingKey::from_rsa_der(b"der")).is_err());
    }
}
