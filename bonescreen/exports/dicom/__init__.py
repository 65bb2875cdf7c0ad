"""Results as DICOM objects in the study that they are about: a report, and for each image a heat map and outlines."""
