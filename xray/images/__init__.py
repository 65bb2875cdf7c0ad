"""From a file's bytes to gray: PNG, JPEG, TIFF, DICOM, and the network's input."""
