"""DICOM radiographs (https://www.dicomstandard.org): headers, and gray from pixels in each usual transfer syntax."""
