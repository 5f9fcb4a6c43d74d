//! ImageLocality: a node that has the pod's images already is better, the more the larger they are; an image that
//! few nodes have counts less, so that not all of its pods crowd there.

use crate::cache::View;
use crate::framework::{MAX_SCORE, ScorePlugin, Scorer, as_it_is};
use crate::node::NodeInfo;
use crate::pod::PendingPod;

/// The plugin.
pub(super) struct ImageLocality;

const MEBIBYTE: i64 = 1 << 20;
/// Images smaller than this together do not count.
const LEAST: i64 = 23 * MEBIBYTE;
/// Images larger than this for each container count no more.
const MOST: i64 = 1000 * MEBIBYTE;

impl ScorePlugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn pre_score<'a>(&self, pod: &'a PendingPod, view: View<'a>, _nodes: &[usize]) -> Option<Scorer<'a>> {
        let total = i64::try_from(view.len()).ok().filter(|total| *total > 0)?;
        let images: Vec<(&str, i64)> = pod
            .images
            .iter()
            .map(|image| (&**image, view.nodes_with_image(image)))
            .filter(|(_, nodes)| *nodes > 0)
            .collect();
        if images.is_empty() {
            return None;
        }
        let most = MOST.saturating_mul(i64::try_from(pod.images.len()).unwrap_or(1));
        let score = move |node: &NodeInfo| {
            let here =
                images.iter().filter_map(|(image, nodes)| node.images.get(*image).map(|size| (size, nodes)));
            let sum: i64 =
                here.map(|(size, nodes)| (*size as f64 * (*nodes as f64 / total as f64)) as i64).sum();
            MAX_SCORE * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
        };
        Some(Scorer { score: Box::new(score), normalize: as_it_is })
    }
}
