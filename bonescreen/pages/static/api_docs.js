const place = document.getElementById("api");
SwaggerUIBundle({
  url: place.dataset.description,
  domNode: place,
  requestInterceptor: (request) => {
    request.headers["X-CSRF-Token"] = place.dataset.csrfToken;
    return request;
  },
});
