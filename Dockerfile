# The image of oar-tiles: one static program, certificates, no shell, no root.
#   docker build -t oar-tiles --build-arg SOURCE_COMMIT=$(git rev-parse HEAD) .
#   docker run --rm -p 8080:8080 -v "$PWD:/tiles:ro" oar-tiles serve facilities.mbtiles
FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends musl-tools \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# What --version says: the repository itself is not copied.
ARG SOURCE_COMMIT=
ARG SOURCE_DATE_EPOCH=
RUN target="$(uname -m)-unknown-linux-musl" \
 && rustup target add "$target" \
 && cargo build --release --locked --features clouds --target "$target" \
 && strip --strip-all -o /oar-tiles "target/$target/release/oar-tiles"

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /oar-tiles /usr/bin/oar-tiles
ENV OAR_TILES_LISTEN=0.0.0.0:8080 \
    OAR_TILES_ADMIN=0.0.0.0:9180
# Not the admin port: docker run -P would publish it.
EXPOSE 8080
WORKDIR /tiles
USER nonroot
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/bin/oar-tiles", "serve", "--check"]
ENTRYPOINT ["/usr/bin/oar-tiles"]
CMD ["serve"]
