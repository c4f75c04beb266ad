"""From an image and keypoints to AP; read coco, crop, codec, model, loss, oks, task in that order."""
