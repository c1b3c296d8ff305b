"""Object detection: detectors that carry attention, their metrics, and pictures of their detections."""
