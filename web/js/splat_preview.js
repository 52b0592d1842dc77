// The viewer on Preview Splat. A picture of the splats comes first; the viewer itself is fetched when there is something to show, and
// takes the picture's place as soon as it draws. Where it cannot (no WebGL 2), the picture stays.
import { app } from '../../../scripts/app.js'
import { api } from '../../../scripts/api.js'

const NODE = 'LathePreviewSplat'
const HEIGHT = 360
const BACKGROUNDS = ['#ffffff', '#7f7f7f', '#111111']
const BUTTON = 'border:0;border-radius:4px;padding:2px 8px;background:#0008;color:#fff;font:12px sans-serif;cursor:pointer'

const address = ({ filename, subfolder, type }) => api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)

function element(tag, style, parent, more = {}) {
  const made = Object.assign(document.createElement(tag), more)
  made.style.cssText = style
  parent?.append(made)
  return made
}

class Preview {
  constructor() {
    this.root = element('div', 'position:relative;width:100%;height:100%;min-height:120px;overflow:hidden;background:#fff', null)
    this.root.className = 'lathe-splat-preview'
    this.place = element('div', 'position:absolute;inset:0', this.root)
    this.poster = element('img', 'position:absolute;inset:0;width:100%;height:100%;object-fit:contain;display:none', this.root, { alt: '' })
    this.words = element('div', 'position:absolute;left:8px;top:8px;font:12px sans-serif;color:#777;pointer-events:none', this.root)
    const bar = element('div', 'position:absolute;right:8px;bottom:8px;display:flex;gap:4px', this.root)
    this.turners = ['‹', '›'].map((label, i) => this.button(bar, label, () => this.turn(2 * i - 1)))
    this.button(bar, '◐', () => this.nextBackground(), 'background')
    this.button(bar, '⟲', () => this.viewer?.reset(), 'first view')
    // The canvas below must not zoom or drag along.
    for (const event of ['wheel', 'pointerdown', 'contextmenu']) this.root.addEventListener(event, (e) => e.stopPropagation())
    this.background = 0
    this.say('Run to see the splats.')
  }

  button(bar, text, onclick, title = '') {
    return element('button', BUTTON, bar, { textContent: text, onclick, title })
  }

  say(text) {
    this.words.textContent = text
  }

  nextBackground() {
    this.background = (this.background + 1) % BACKGROUNDS.length
    this.root.style.background = BACKGROUNDS[this.background]
    this.viewer?.setBackground(BACKGROUNDS[this.background])
  }

  turn(by) {
    this.show(this.splats, this.posters, (this.index + by + this.splats.length) % this.splats.length)
  }

  async show(splats, posters, index = 0) {
    Object.assign(this, { splats, posters, index })
    for (const turner of this.turners) turner.style.display = splats.length > 1 ? '' : 'none'
    const { count, position, target, fov } = splats[index]
    const caption = `${count.toLocaleString()} Gaussians` + (splats.length > 1 ? `, ${index + 1} of ${splats.length}` : '')
    if (posters[index]) Object.assign(this.poster, { src: address(posters[index]), style: `${this.poster.style.cssText};display:block` })
    this.say(caption)
    const job = (this.job = (this.job ?? 0) + 1)
    const before = this.showing
    let shown
    this.showing = new Promise((resolve) => (shown = resolve))
    try {
      await before // one after the other: of two files, the smaller would come first
      if (job !== this.job) return
      const viewer = await this.open()
      await viewer.show(address(splats[index]), { position, target, fov })
      if (job === this.job && viewer === this.viewer) this.poster.style.display = 'none'
    } catch (error) {
      console.warn('Lathe: the splat viewer does not run here.', error)
      if (job === this.job) this.say(`${caption}. Only a picture: ${error.message}.`)
    } finally {
      shown()
    }
  }

  async open() {
    if (this.viewer) return this.viewer
    const { SplatViewer } = await import('../viewer/splat_viewer.mjs')
    if (this.removed) throw new Error('the node is gone')
    try {
      this.viewer ??= new SplatViewer(this.place, () => this.lost())
    } catch (error) {
      throw new Error('this browser has no WebGL 2', { cause: error })
    }
    this.viewer.setBackground(BACKGROUNDS[this.background])
    return this.viewer
  }

  /** The browser took the drawing surface away, as it does with the oldest of many: the picture again. */
  lost() {
    if (!this.viewer || this.viewer.closed) return
    this.close()
    this.poster.style.display = 'block'
    this.say('Run again to turn the splats.')
  }

  close() {
    const viewer = this.viewer
    this.viewer = null
    viewer?.close()
  }
}

function extend(prototype, name, work) {
  const before = prototype[name]
  prototype[name] = function (...given) {
    const result = before?.apply(this, given)
    work.apply(this, given)
    return result
  }
}

app.registerExtension({
  name: 'Lathe.SplatPreview',
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return
    extend(nodeType.prototype, 'onNodeCreated', function () {
      this.latheSplats = new Preview()
      const options = { serialize: false, hideOnZoom: false, getMinHeight: () => HEIGHT }
      const widget = this.addDOMWidget('viewer', 'LATHE_SPLAT_VIEWER', this.latheSplats.root, options)
      widget.serialize = false
      this.setSize([Math.max(this.size[0], 380), Math.max(this.size[1], HEIGHT + 60)])
    })
    extend(nodeType.prototype, 'onExecuted', function (output) {
      if (output?.lathe_splats?.length) this.latheSplats.show(output.lathe_splats, output.lathe_posters ?? [])
    })
    extend(nodeType.prototype, 'onRemoved', function () {
      this.latheSplats.removed = true
      this.latheSplats.close()
    })
  }
})
