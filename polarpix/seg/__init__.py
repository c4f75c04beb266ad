"""From an image and a label map to mIoU; read datasets, augment, model, loss, sliding, miou, task in that order."""
