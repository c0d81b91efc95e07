//! Who is served next when many want a place and there are few (max-min fairness).

/// What one of those in turn has and wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Places it holds already.
    pub held: usize,
    /// Further places that it could use.
    pub wants: usize,
}

/// Shares places out: each goes to whoever holds the fewest and wants more, the first in turn among
/// several. Returns whom the places go to, one after the other, as indices of `claims`.
pub fn share_out(places: usize, claims: &[Claim]) -> Vec<usize> {
    let mut claims = claims.to_vec();
    let next = || {
        let wanting = claims.iter_mut().enumerate().filter(|(_, claim)| claim.wants > 0);
        let (at, claim) = wanting.min_by_key(|(_, claim)| claim.held)?;
        claim.wants -= 1;
        claim.held += 1;
        Some(at)
    };
    std::iter::from_fn(next).take(places).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims(pairs: &[(usize, usize)]) -> Vec<Claim> {
        pairs.iter().map(|&(held, wants)| Claim { held, wants }).collect()
    }

    #[test]
    fn everybody_gets_one_before_anybody_gets_two() {
        assert_eq!(share_out(4, &claims(&[(0, 9), (0, 1), (0, 9)])), [0, 1, 2, 0]);
        assert_eq!(share_out(2, &claims(&[(0, 9), (0, 1), (0, 9)])), [0, 1]);
        assert_eq!(share_out(9, &claims(&[(0, 2), (0, 0), (0, 1)])), [0, 2, 0]);
    }

    #[test]
    fn what_is_held_already_counts() {
        assert_eq!(share_out(1, &claims(&[(3, 9), (0, 1)])), [1]);
        assert_eq!(share_out(3, &claims(&[(2, 9), (0, 9)])), [1, 1, 0]);
    }

    proptest! {
        #[test]
        fn no_place_stays_empty_and_nobody_who_wants_more_holds_less(
            places in 0_usize..20,
            pairs in proptest::collection::vec((0_usize..6, 0_usize..6), 0..8),
        ) {
            let before = claims(&pairs);
            let served = share_out(places, &before);
            let wanted: usize = before.iter().map(|claim| claim.wants).sum();
            prop_assert_eq!(served.len(), places.min(wanted));
            let given = |at: usize| served.iter().filter(|served| **served == at).count();
            for (at, claim) in before.iter().enumerate() {
                prop_assert!(given(at) <= claim.wants);
                for (other, wanting) in before.iter().enumerate() {
                    if given(at) > 0 && given(other) < wanting.wants {
                        prop_assert!(claim.held + given(at) <= wanting.held + given(other) + 1);
                    }
                }
            }
        }
    }
}
